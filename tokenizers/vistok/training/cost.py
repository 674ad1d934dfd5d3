"""What a run will need, before it is queued: parameters, FLOPs, memory, and the batch that fits.

The training step itself runs, on fake tensors: they have shapes, types and lifetimes, but neither values nor memory.
Every storage counts from the operation that makes it until it is freed; the largest sum is the peak.
"""

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from rich import get_console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from vistok.losses import Adversary
from vistok.terminal import say, visible
from vistok.training.module import LitTokenizer, parameters_of

GIB = 2**30
# Kept free of the memory that is to be fitted; both are assumed, not measured.
CONTEXT = GIB  # bytes: the CUDA context, workspaces of cuDNN and cuBLAS
SLACK = 0.05  # share of the memory: fragmentation
# Batches large enough that activations outweigh whatever does not grow with the batch.
LARGE = (32, 64)


class Estimate(NamedTuple):
    """What one process of a run needs, with the discriminator where the run reaches it. Memory is in bytes."""

    parameters: dict[str, tuple[int, int]]  # of each part: all, and how many are trained
    flops: dict[str, float]  # of one image, by direction; a multiply-add is two
    memory: dict[str, int]  # that stays whatever the batch
    batch: int  # images in a batch of the config
    peak: int  # with that batch
    least: int  # with a batch of one image
    fixed: float  # of the line that the peaks of large batches lie on
    per_image: float  # what each image adds to it

    def peak_of(self, batch: int) -> float:
        """The peak with another batch: a line, but no less than with one image, where the optimizer's step is more."""
        return max(self.least, self.fixed + batch * self.per_image)

    def fitting(self, memory: float) -> int:
        """The largest batch that ``memory`` bytes hold, less what is kept free; 0 where no image fits."""
        room = memory * (1 - SLACK) - CONTEXT
        return int((room - self.fixed) // self.per_image) if room >= self.peak_of(1) else 0


def estimate(
    build: Callable[[], LitTokenizer],
    image_size: int,
    batch: int,
    gpu: bool = True,
    precision: str = "bf16-mixed",
    ddp: bool = False,
) -> Estimate:
    """Run a few updates of a module without computing them: seconds, whatever its size.

    Args:
        build: Makes the module; called where new tensors have no values and take no memory.
        image_size: Pixels along each side of an image.
        batch: Images in a batch.
        gpu: For CUDA's kinds of number under autocast, and its optimizer steps, which handle all parameters at once.
        precision: ``bf16-mixed`` or ``32-true``.
        ddp: For one of several processes, which hold each gradient twice.

    Raises:
        ValueError: Another precision.
    """
    if precision not in ("bf16-mixed", "32-true"):
        raise ValueError(f"trainer.precision={precision} cannot be estimated: use bf16-mixed or 32-true")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")  # LPIPS's heads
        lit = build()
    with FakeTensorMode(allow_non_fake_inputs=True), LiveMemory() as live:
        make_fake(lit)
        weights = live.now
        step = Step(lit, gpu, precision == "bf16-mixed")
        step(images_of(1, image_size))  # makes the optimizers' states
        peaks = {}
        for size in (1, batch, *LARGE):
            live.peak = live.now
            step(images_of(size, image_size))
            peaks[size] = live.peak
        flops = _flops_of(step, images_of(batch, image_size))
        states = size_of(t for o in step.optimizers for state in o.state.values() for t in state.values())
        gradients = size_of(p for o in step.optimizers for p in parameters_of(o))
    buckets = gradients if ddp else 0
    memory = {"weights": weights, "gradients": gradients, "optimizer": states}
    memory |= {"buckets of gradients": buckets} if ddp else {}
    small, large = LARGE
    per_image = (peaks[large] - peaks[small]) / (large - small)
    return Estimate(
        parameters=_parameters(lit),
        flops=flops,
        memory=memory,
        batch=batch,
        peak=peaks[batch] + buckets,
        least=peaks[1] + buckets,
        fixed=peaks[large] - large * per_image + buckets,
        per_image=per_image,
    )


class LiveMemory(TorchDispatchMode):
    """Bytes of all storages that were made inside and are still alive: ``now``, and the ``peak`` so far.

    A number that Python reads from a tensor is 1, since fake tensors have none: it says that an update is finite, and
    it is a valid code.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default:
            return 1
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class Float32AsOnCUDA(TorchFunctionMode):
    """What CUDA's autocast computes in float32 and the CPU's, which stands in for it here, does not.

    Fake tensors of a GPU cannot run backwards on a machine that has none.
    """

    NAMES = frozenset({
        "group_norm", "layer_norm", "softmax", "log_softmax", "logsumexp", "softplus", "interpolate", "sum", "prod",
        "cumsum", "cosine_similarity", "norm", "vector_norm", "exp", "log", "pow", "__pow__", "square", "reciprocal",
        "rsqrt",
    })  # fmt: skip

    def __torch_function__(self, function, types, args=(), kwargs=None) -> Any:
        if getattr(function, "__name__", "") in self.NAMES and torch.is_autocast_enabled("cpu"):
            args = tree_map_only(Tensor, lambda t: t.float() if t.dtype == torch.bfloat16 else t, args)
        return function(*args, **(kwargs or {}))


class Step:
    """A module's own ``training_step``, with the little of Lightning's trainer that it asks for.

    Args:
        lit: The module; what it was is overwritten.
        gpu: Optimizers take all parameters in one call, as they do on CUDA.
        mixed: Under bfloat16 autocast.
    """

    log_every_n_steps = sys.maxsize  # never
    should_stop = False
    model = None  # of a strategy with several processes

    def __init__(self, lit: LitTokenizer, gpu: bool, mixed: bool):
        self.lit, self.gpu, self.mixed = lit.train(), gpu, mixed
        self.optimizers = lit.configure_optimizers()
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            if "foreach" in group:
                group["foreach"] = gpu and not group.get("fused")
        lit.trainer = self
        lit.optimizers = lambda: self.optimizers
        lit.manual_backward = Tensor.backward
        lit.accumulate = min(lit.accumulate, 2)  # the second batch finds the gradients of the first, as all others do

    def __call__(self, images: Tensor) -> None:
        start = self.lit.adversary.start if self.lit.adversary else 0
        self.lit.updates = max(0, min(start, self.lit.schedule.updates - 1))
        for _ in range(self.lit.accumulate):
            with self.precision():
                self.lit.training_step(images, 0)

    @contextmanager
    def precision(self) -> Iterator[None]:
        device = "cuda" if self.lit.device.type == "cuda" else "cpu"  # fake tensors are the CPU's
        autocast = torch.autocast(device, torch.bfloat16, enabled=self.mixed)
        with autocast, Float32AsOnCUDA() if self.gpu else nullcontext():
            yield


def make_fake(module: nn.Module) -> None:
    """Put a fake tensor of the CPU in the place of each parameter and buffer, which are on the meta device.

    Autocast, and many an operation, know the CPU but not the meta device.
    """
    made: dict[Tensor, Tensor] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter not in made:
                fake = torch.empty_like(parameter, device="cpu")
                made[parameter] = nn.Parameter(fake, parameter.requires_grad)
            setattr(owner, name, made[parameter])
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer not in made:
                made[buffer] = torch.empty_like(buffer, device="cpu")
            setattr(owner, name, made[buffer])
    for owner in module.modules():
        if isinstance(owner, Adversary):  # it has a list of them
            owner.trained = [made[parameter] for parameter in owner.trained]


def images_of(batch: int, size: int) -> Tensor:
    return torch.empty(batch, 3, size, size)


def size_of(tensors: Iterable[Any]) -> int:
    """Bytes of those that are tensors."""
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def _flops_of(step: Step, images: Tensor) -> dict[str, float]:
    """FLOPs for each image: matrix products, convolutions and attention. The head is not folded."""
    tokenizer, counts = step.lit.tokenizer, {}
    with torch.no_grad():
        counts["image to codes"], emitted = _counted(tokenizer.to_codes, images)
        size = (images.shape[-2], images.shape[-1])
        counts["codes to image"], _ = _counted(lambda codes: tokenizer.detokenize(codes, size), emitted.codes)
    total, _ = _counted(step, images)
    counts["a training update"] = total / step.lit.accumulate
    return {name: total / len(images) for name, total in counts.items()}


def _counted(function: Callable[[Tensor], Any], tensor: Tensor) -> tuple[int, Any]:
    with FlopCounterMode(display=False) as counter:
        result = function(tensor)
    return counter.get_total_flops(), result


def _parameters(lit: LitTokenizer) -> dict[str, tuple[int, int]]:
    parts = dict(lit.tokenizer.named_children())
    parts |= {"discriminator": lit.adversary} if lit.adversary else {}
    parts |= {f"loss {name}": loss for losses in (lit.image_losses, lit.latent_losses) for name, loss in losses.items()}
    parts |= {"averaged weights": lit.average} if lit.average else {}
    counts = {
        name: tuple(
            sum(p.numel() for p in part.parameters() if p.requires_grad >= trained) for trained in (False, True)
        )
        for name, part in parts.items()
    }
    return {name: count for name, count in counts.items() if count[0]}


def show(estimated: Estimate, memory: float | None, about: str) -> None:
    """Print an estimate, and the batch that fits.

    Args:
        estimated: The estimate.
        memory: The memory of a GPU that a batch has to fit, in bytes; None asks for no batch.
        about: The run, in a few words.
    """
    table = Table(title=Text(visible(about), "bold"), title_justify="left", show_header=False)
    total, trained = (sum(counts) for counts in zip(*estimated.parameters.values(), strict=True))
    for name, counts in {**estimated.parameters, "all parameters": (total, trained)}.items():
        note = "" if counts[0] == counts[1] else f"{counts[1]:,} trained" if counts[1] else "not trained"
        table.add_row(name, f"{counts[0]:,}", note)
    table.add_section()
    for name, flops in estimated.flops.items():
        table.add_row(name, f"{flops / 1e9:,.2f} GFLOPs", "for each image")
    table.add_section()
    for name, size in estimated.memory.items():
        table.add_row(name, in_units(size), "whatever the batch")
    table.add_row("activations, their gradients", in_units(estimated.per_image), "for each image")
    table.add_row("peak", in_units(estimated.peak), f"with batch_size={estimated.batch}")
    get_console().print(table)
    if memory is None:
        return
    fitting = estimated.fitting(memory)
    say(
        f"{memory / GIB:g} GiB hold batch_size={fitting}, with {SLACK:.0%} and {in_units(CONTEXT)} kept free",
        "green" if fitting >= estimated.batch else "yellow",
    )


def in_units(size: float) -> str:
    """Bytes for a reader."""
    return f"{size / GIB:,.2f} GiB" if size >= GIB else f"{size / 2**20:,.1f} MiB"
