"""Exponential moving average of the tokenizer's weights, for validation and export."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


class AveragedTokenizer(nn.Module):
    """A second tokenizer with averaged parameters: ``average ← d · average + (1 - d) · parameter``.

    It is a separate module, and weights are never swapped: it moves between devices and is saved and resumed with the
    other modules, and no checkpoint can be written in the middle of a swap. Only trained parameters are averaged.
    Buffers (codebooks learned from statistics, their counts) and frozen parameters are copied.

    Args:
        tokenizer: The tokenizer whose weights are averaged; it is copied.
        decay: d, in [0, 1).
    """

    def __init__(self, tokenizer: nn.Module, decay: float):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of averaged weights must be in [0, 1), not {decay}")
        self.decay = decay
        self.tokenizer = copy.deepcopy(tokenizer).requires_grad_(False)

    @torch.no_grad()
    def update(self, tokenizer: nn.Module, applied: Tensor | float = 1.0) -> None:
        """Moves the average towards the weights of ``tokenizer`` by one update, in one pass over both.

        A step of gradient descent on ½ |average - parameter|² with the rate 1 - d is this average, so torch's fused
        SGD computes it: the parameter is a gradient to ascend, and the average decays by itself.

        Args:
            tokenizer: The trained tokenizer after the update.
            applied: Scalar on the device; 0 for a skipped update, which leaves the average unchanged.
        """
        trained, frozen = [], []
        for average, parameter in zip(self.tokenizer.parameters(), tokenizer.parameters(), strict=True):
            (trained if parameter.requires_grad else frozen).append((average, parameter))
        for average, parameter in trained:
            if average.stride() != parameter.stride():  # of networks that were made channels last
                average.data = torch.empty_like(parameter).copy_(average)
        averages, parameters = ([pair[i].detach() for pair in trained] for i in range(2))
        sgd(
            averages,
            parameters,
            [None] * len(averages),
            fused=True,
            found_inf=1 - torch.as_tensor(applied, dtype=torch.float32, device=averages[0].device),  # skips the step
            weight_decay=1.0,
            momentum=0.0,
            lr=1 - self.decay,
            dampening=0.0,
            nesterov=False,
            maximize=True,
        )
        for copied, original in (*frozen, *zip(self.tokenizer.buffers(), tokenizer.buffers(), strict=True)):
            copied.copy_(original)

    @torch.no_grad()
    def copy_rows(self, tokenizer: nn.Module, moved: Mapping[str, Tensor]) -> None:
        """Copies rows that were set rather than learned, such as restarted codewords.

        Args:
            tokenizer: The trained tokenizer.
            moved: Rows (n,) bool of parameters (n, ...) by name. Names of buffers are ignored: ``update`` copies them.
        """
        averages, parameters = dict(self.tokenizer.named_parameters()), dict(tokenizer.named_parameters())
        for name in moved.keys() & parameters.keys():
            average, parameter, rows = averages[name], parameters[name], moved[name]
            average.copy_(torch.where(rows.reshape(-1, *[1] * (parameter.ndim - 1)), parameter, average))
