"""Outputs of named layers of the tokenizer, for losses on them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn


class LayerFeatures:
    """Keeps what named layers compute while the tokenizer trains, by forward hooks, and computes the losses on it.

    A layer that computes several times in a step keeps its last output. Without losses there are no hooks.

    Args:
        tokenizer: The tokenizer, with its layers.
        losses: Losses ``loss(feature, images)`` by name, each with an attribute ``layer``: a name in
            ``tokenizer.named_modules()``.

    Raises:
        ValueError: A loss names no layer, or the tokenizer has no such layer.
    """

    def __init__(self, tokenizer: nn.Module, losses: Mapping[str, nn.Module]):
        self.losses = losses
        self.recording = False  # validation computes the same layers
        self.features: dict[str, Any] = {}  # by layer
        layers = {layer_of(name, loss): _named(tokenizer, name, layer_of(name, loss)) for name, loss in losses.items()}
        for layer, module in layers.items():
            module.register_forward_hook(self._hook(layer))

    def _hook(self, layer: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.recording:
                self.features[layer] = output

        return keep

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keeps the outputs of the layers that compute within the block."""
        self.recording = True
        try:
            yield
        finally:
            self.recording = False

    def terms(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the losses of the recorded features by name, unweighted, and forgets the features.

        Raises:
            ValueError: A layer did not compute, or its output is not one tensor.
        """
        features, self.features = self.features, {}
        for name, loss in self.losses.items():
            feature = features.get(layer_of(name, loss))
            if not isinstance(feature, Tensor):
                problem = "does not compute in training" if feature is None else f"gives a {type(feature).__name__}"
                raise ValueError(
                    f"loss.layer_losses.{name}.layer={loss.layer}: this layer {problem}; name one that gives a tensor"
                )
        return {name: loss(features[layer_of(name, loss)], images) for name, loss in self.losses.items()}


def layer_of(name: str, loss: Any) -> str:
    """Name of the layer that a loss is on."""
    if not isinstance(getattr(loss, "layer", None), str):
        raise ValueError(f"loss.layer_losses.{name}: {type(loss).__name__} has no attribute layer, the name of a layer")
    return loss.layer


def _named(tokenizer: nn.Module, name: str, layer: str) -> nn.Module:
    modules = {
        own: module
        for own, module in tokenizer.named_modules(remove_duplicate=False)
        if own and type(module).forward is not nn.Module.forward  # a ModuleList computes nothing
    }
    if layer not in modules:
        near = get_close_matches(layer, modules, 3, 0.5) or [own for own, _ in tokenizer.named_children()]
        raise ValueError(
            f"loss.layer_losses.{name}.layer={layer}: the tokenizer has no such layer; it has {', '.join(near)}"
        )
    return modules[layer]
