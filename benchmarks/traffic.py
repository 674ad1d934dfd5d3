"""Bytes, FLOPs and kept activations of an update of a recipe, by operation and by part: counted, not measured.

    python benchmarks/traffic.py experiment=llamagen_vq16_imagenet256 trainer=gpu [--gate]

The recipe's own update runs on fake tensors, with the dtypes that a GPU would have. An operation reads and writes each
of its tensors once. A group norm reads its input twice, and its backward pass reads both inputs twice; the gradients of
a convolution's input, weight and bias are three operations; views are free; custom operations have their own formulas
(``vistok.kernels.passes``). Caches are not modelled. ``optim.accumulate`` is 1 unless it is given.
"""

import argparse
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import torch
from measure import Claims, line, table
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vistok.kernels.passes import FORMULAS, size, sizes
from vistok.training import run
from vistok.training.cost import GIB, LiveMemory, Step, estimate, images_of, make_fake
from vistok.training.module import LitTokenizer

ROOT = Path(__file__).parent.parent
MOST = {"GB of an update": 110, "GiB of activations for an image": 0.7}
READS = {"native_group_norm": {0: 2}, "native_group_norm_backward": {0: 2, 1: 2}}  # of arguments, where not one
UNWRITTEN = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")  # memory without values
OVERWRITING = ("copy_", "zero_", "fill_")  # these do not read what they change
SHOWN = 0.005  # share of all bytes from which an operation has its own row


class Row(NamedTuple):
    """One kind of operation in one part of an update."""

    part: str
    kind: str


class Traffic(LiveMemory):
    """Counts bytes, FLOPs and calls of all operations inside, by ``Row``.

    An operation of a backward pass belongs to the part whose forward pass recorded it.
    """

    def __init__(self):
        super().__init__()
        self.bytes: Counter[Row] = Counter()
        self.flops: Counter[Row] = Counter()
        self.calls: Counter[Row] = Counter()
        self._running = ["other"]  # the innermost part last
        self._starts: list[int] = []  # numbers of autograd's nodes from which on a part recorded them
        self._recorders: list[str] = []  # that part

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None) -> Any:
        results = super().__torch_dispatch__(operation, types, args, kwargs)
        row = Row(self._part(), kind_of(operation, args, results))
        moved = moved_bytes(operation, args, kwargs or {}, results)
        self.bytes[row] += moved
        self.calls[row] += moved > 0
        if formula := flop_registry.get(operation._overloadpacket):
            self.flops[row] += formula(*args, **(kwargs or {}), out_val=results)
        return results

    def _part(self) -> str:
        node = torch._C._current_autograd_node()
        place = bisect_right(self._starts, node._sequence_nr()) if node else 0
        return self._recorders[place - 1] if place else self._running[-1]

    def enter(self, part: str) -> None:
        """Counts as this part what comes before ``leave``."""
        self._running.append(part)
        self._record()

    def leave(self) -> None:
        self._running.pop()
        self._record()

    def _record(self) -> None:
        self._starts.append(torch._C._autograd._get_sequence_nr())  # pyright: ignore[reportAttributeAccessIssue]
        self._recorders.append(self._running[-1])

    @contextmanager
    def by_part(self, parts: Sequence[tuple[str, nn.Module]]) -> Iterator[None]:
        """Counts calls of modules as parts."""
        hooks = []
        for name, module in parts:
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self.enter(name)))
            hooks.append(module.register_forward_hook(lambda *_: self.leave(), always_call=True))
        yield
        for hook in hooks:
            hook.remove()


def moved_bytes(operation: Any, args: Sequence[Any], kwargs: dict[str, Any], results: Any) -> int:
    """Bytes that an operation reads and writes."""
    name = operation._overloadpacket.__name__
    if name in UNWRITTEN:
        return 0
    if operation._overloadpacket in FORMULAS:
        return FORMULAS[operation._overloadpacket](*args, **kwargs, out_val=results)
    if operation.namespace == "vistok":
        raise ValueError(f"{name} has no formula of its bytes: see vistok.kernels.passes")
    if name == "convolution_backward":
        return of_convolution(args[0], args[1], args[2], results)
    moved, given, seen = 0, set(), set()
    for place, argument in enumerate(operation._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        reads = 0 if written and name in OVERWRITING else READS.get(name, {}).get(place, 1)
        for tensor in tensors_of(value):
            given.add(tensor.untyped_storage()._cdata)
            if id(tensor) not in seen:
                moved += (reads + written) * size(tensor)
            seen.add(id(tensor))
    made = [tensor for tensor in tensors_of(results) if tensor.untyped_storage()._cdata not in given]
    return moved + sizes(made) if made or operation._schema.is_mutable else 0  # else a view


def of_convolution(gradient: Tensor, x: Tensor, weight: Tensor, results: Sequence[Tensor | None]) -> int:
    """Bytes of a convolution's backward pass: of the gradients of input, weight and bias, where they are wanted."""
    read = (size(gradient) + size(weight), size(gradient) + size(x), size(gradient))
    return sum(given + size(made) for given, made in zip(read, results, strict=True) if made is not None)


def tensors_of(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def kind_of(operation: Any, args: Sequence[Any], results: Any) -> str:
    """Name of an operation for the table, the same for forward and backward; copies by their purpose."""
    name = operation._overloadpacket.__name__
    if name in ("_to_copy", "copy_", "clone"):
        source = args[1] if name == "copy_" else args[0]
        return "cast" if source.dtype != results.dtype else "copy"
    return name.strip("_").removeprefix("native_").removesuffix("_backward")


def parts_of(lit: LitTokenizer) -> list[tuple[str, nn.Module]]:
    parts = list(lit.tokenizer.named_children())
    for losses in (lit.image_losses, lit.latent_losses, lit.output_losses):
        parts += [(f"loss {name}", loss) for name, loss in losses.items()]
    return parts + ([("discriminator", lit.adversary.discriminator)] if lit.adversary else [])


def count(
    build: Callable[[], LitTokenizer], batch: int, pixels: int, channels: int, precision: str, channels_last: bool
) -> Traffic:
    """Counts one update of a module with its adversary, after one that makes the optimizers' states."""
    with torch.device("meta"):
        lit = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        make_fake(lit)
        step = Step(lit, gpu=True, mixed=precision == "bf16-mixed", channels_last=channels_last)
        images = images_of(batch, pixels, channels)
        with LiveMemory():
            step(images_of(1, pixels, channels))
        with Traffic() as traffic, traffic.by_part(parts_of(lit)):
            finish = lit._finish_update

            def finish_update(adversarial: bool) -> None:
                traffic.enter("end of the update")  # norms of gradients, optimizers, averages
                finish(adversarial)
                traffic.leave()

            lit._finish_update = finish_update
            step(images)
    return traffic


def show(traffic: Traffic) -> None:
    """Print the counts by part, then by operation."""
    total = sum(traffic.bytes.values())
    for title, least in (("part", 0.0), ("kind", SHOWN)):
        sums = {}
        for row, moved in traffic.bytes.items():
            name = getattr(row, title)
            sums.setdefault(name, Counter())
            sums[name] += Counter(bytes=moved, flops=traffic.flops[row], calls=traffic.calls[row])
        small = [name for name, own in sums.items() if own["bytes"] < least * total]
        if small:
            sums[f"{len(small)} others"] = sum((sums.pop(name) for name in small), Counter())
        table([title, "GB", "share", "TFLOPs", "calls"])
        for name, own in sorted(sums.items(), key=lambda item: -item[1]["bytes"]):
            share, flops = f"{own['bytes'] / total:.1%}", f"{own['flops'] / 1e12:.2f}"
            line([name, f"{own['bytes'] / 1e9:.2f}", share, flops, own["calls"]])
        line(["all", f"{total / 1e9:.2f}", "", f"{sum(traffic.flops.values()) / 1e12:.2f}", traffic.calls.total()])
        print()


def compose(words: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return hydra.compose("train", overrides=["optim.accumulate=1", *words, "run.frozen_weights=random"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="of train.py")
    parser.add_argument("--gate", action="store_true", help="end with status 1 if a target is not reached")
    asked = parser.parse_args()
    config = compose(asked.words)
    sizes = config.data.batch_size, config.data.image_size, config.data.get("channels", 3)
    precision, channels_last = config.trainer.precision, config.speed.channels_last

    def build() -> LitTokenizer:
        return run.build_module(config)

    layout = "channels last" if channels_last else "channels first"
    print(f"{sizes[0]} images of {sizes[1]} pixels, {precision}, {layout}; counted, not measured\n")
    traffic = count(build, *sizes, precision, channels_last)
    show(traffic)
    estimated = estimate(build, sizes[1], sizes[0], precision=precision, channels=sizes[2], channels_last=channels_last)
    claims = Claims()
    for what, value in zip(MOST, (sum(traffic.bytes.values()) / 1e9, estimated.per_image / GIB), strict=True):
        claims.at_most(what, value, MOST[what])
    claims.finish(asked.gate)


if __name__ == "__main__":
    main()
