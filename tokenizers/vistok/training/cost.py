"""Estimate of a run's parameters, FLOPs and memory, and of the batch that fits, before it is queued.

The training step itself runs on fake tensors, which have shapes, types and lifetimes but neither values nor memory.
Every storage counts from the operation that creates it until it is freed; the largest sum is the peak.
"""

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from vistok.kernels.group_norm import fused_everywhere
from vistok.losses import Adversary
from vistok.structure import WeightCount
from vistok.terminal import say, visible
from vistok.training.module import LitTokenizer, parameters_of

GIB = 2**30
# Reserve in the available memory; both values are assumed, not measured.
CONTEXT = GIB  # bytes: the CUDA context, workspaces of cuDNN and cuBLAS
SLACK = 0.05  # share of the memory: fragmentation
# Batches large enough that activations outweigh everything that does not grow with the batch.
LARGE = (32, 64)


class Estimate(NamedTuple):
    """Requirements of one process of a run, with the discriminator if the run reaches it. Memory is in bytes."""

    parameters: dict[str, WeightCount]  # of each part
    flops: dict[str, float]  # of one image, by direction; a multiply-add is two
    memory: dict[str, int]  # independent of the batch
    batch: int  # images in a batch of the config
    peak: int  # with that batch
    least: int  # with a batch of one image
    fixed: float  # constant of the line through the peaks of large batches
    per_image: float  # slope of that line

    def peak_of(self, batch: int) -> float:
        """Peak memory with another batch.

        It is linear in the batch, but at least the peak with one image, where the optimizer's step needs more.
        """
        return max(self.least, self.fixed + batch * self.per_image)

    def fitting(self, memory: float) -> int:
        """Largest batch that fits in ``memory`` bytes minus a reserve; 0 if no image fits."""
        room = memory * (1 - SLACK) - CONTEXT
        return int((room - self.fixed) // self.per_image) if room >= self.peak_of(1) else 0


def estimate(
    build: Callable[[], LitTokenizer],
    image_size: int | tuple[int, int],
    batch: int,
    gpu: bool = True,
    precision: str = "bf16-mixed",
    ddp: bool = False,
    channels: int = 3,
    channels_last: bool = False,
    shards: int = 1,
) -> Estimate:
    """Runs a few updates of a module without computing values: it takes seconds for any size.

    Args:
        build: Makes the module; called where new tensors have no values and take no memory.
        image_size: Height and width of the images in pixels; one number for squares.
        batch: Number of images in a batch.
        gpu: True for CUDA's dtypes under autocast, and its optimizer steps, which process all parameters at once.
        precision: ``bf16-mixed`` or ``32-true``.
        ddp: True for one of several processes with DDP: its buckets hold the gradients for all of the run, and where an
            update is several batches, those before the last one have gradients of their own too.
        channels: Number of channels of the images.
        channels_last: True for networks that are channels last; on a GPU they have fused group norms.
        shards: Number of processes over which encoder and decoder are sharded, as with ``trainer=fsdp``.

    Raises:
        ValueError: The precision is another one.
    """
    if precision not in ("bf16-mixed", "32-true"):
        raise ValueError(f"trainer.precision={precision} cannot be estimated: use bf16-mixed or 32-true")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")  # LPIPS's heads
        lit = build()
    with FakeTensorMode(allow_non_fake_inputs=True), LiveMemory() as live:
        make_fake(lit)
        weights = live.now
        step = Step(lit, gpu, precision == "bf16-mixed", channels_last)
        if ddp:
            lit.reducers = [Buckets(own) for own in lit.trained]
        step(images_of(1, image_size, channels))  # makes the optimizers' states
        peaks = {}
        for size in (1, batch, *LARGE):
            live.peak = live.now
            step(images_of(size, image_size, channels))
            peaks[size] = live.peak
        flops = _flops_of(step, images_of(batch, image_size, channels))
        states = size_of(t for o in step.optimizers for state in o.state.values() for t in state.values())
        gradients = size_of(p for o in step.optimizers for p in parameters_of(o))
    own = {"weights": weights, "gradients": gradients, "optimizer": states}
    if ddp and lit.accumulate == 1:
        own["buckets of gradients"] = own.pop("gradients")
    elif ddp:
        own["buckets of gradients"] = gradients
    less = _sharded(lit, step.optimizers)
    part = 1 - 1 / shards
    memory = {name: size - round(less[name] * part) if name in less else size for name, size in own.items()}
    # Encoder and decoder are whole where most memory is in use, beside their shards. So are the gradients of one batch.
    gathered = less["weights"] / shards if shards > 1 else 0
    constant = round(gathered - part * (less["optimizer"] + (less["gradients"] if lit.accumulate > 1 else 0)))
    small, large = LARGE
    per_image = (peaks[large] - peaks[small]) / (large - small)
    return Estimate(
        parameters=_parameters(lit),
        flops=flops,
        memory=memory,
        batch=batch,
        peak=peaks[batch] + constant,
        least=peaks[1] + constant,
        fixed=peaks[large] - large * per_image + constant,
        per_image=per_image,
    )


class LiveMemory(TorchDispatchMode):
    """Bytes of all storages that were created inside and are still alive: ``now``, and the ``peak`` so far.

    A number that Python reads from a tensor is 1, since fake tensors have no values: it means that an update is finite,
    and it is a valid code.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default:
            return 1
        results = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class Float32AsOnCUDA(TorchFunctionMode):
    """Computes in float32 those operations for which CUDA's autocast does and the CPU's does not.

    Autocast of the CPU is used because fake tensors of a GPU cannot run backward passes on a machine without one.
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
    """A module's own ``training_step``, with the attributes of Lightning's trainer that it needs.

    Args:
        lit: The module; its state is overwritten.
        gpu: True processes all parameters in one call of an optimizer, as on CUDA.
        mixed: True uses bfloat16 autocast.
        channels_last: True, with ``gpu``, for the fused group norms that channels-last networks have on CUDA.
    """

    log_every_n_steps = sys.maxsize  # never
    should_stop = False
    model = None  # set by strategies with several processes

    def __init__(self, lit: LitTokenizer, gpu: bool, mixed: bool, channels_last: bool = False):
        self.lit, self.gpu, self.mixed, self.fused = lit.train(), gpu, mixed, gpu and channels_last
        self.optimizers = lit.configure_optimizers()
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            if "foreach" in group:
                group["foreach"] = gpu and not group.get("fused")
        lit.trainer = self
        lit.optimizers = lambda: self.optimizers
        lit.manual_backward = Tensor.backward
        lit.accumulate = min(lit.accumulate, 2)  # the second batch adds to gradients, as all later ones do

    def __call__(self, images: Tensor) -> None:
        start = self.lit.adversary.start if self.lit.adversary else 0
        self.lit.updates = max(0, min(start, self.lit.schedule.updates - 1))
        for _ in range(self.lit.accumulate):
            with self.precision():
                self.lit.training_step(images, 0)

    @contextmanager
    def precision(self) -> Iterator[None]:
        device = "cuda" if self.lit.device.type == "cuda" else "cpu"  # fake tensors are on the CPU
        autocast = torch.autocast(device, torch.bfloat16, enabled=self.mixed)
        fused = fused_everywhere() if self.fused else nullcontext()
        with autocast, Float32AsOnCUDA() if self.gpu else nullcontext(), fused:
            yield


class Buckets(nn.Module):
    """Memory of a reducer: a backward pass moves each gradient to a bucket, which lives as long as the run."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        super().__init__()
        for parameter in parameters:
            bucket = torch.empty_like(parameter)
            parameter.register_post_accumulate_grad_hook(lambda own, bucket=bucket: setattr(own, "grad", bucket))

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def _sharded(lit: LitTokenizer, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, int]:
    """Bytes of what ``fsdp.shard`` shards: encoder and decoder without its last layer, and what belongs to them."""
    networks = lit.tokenizer.encoder, lit.tokenizer.decoder
    weights = [p for network in networks for p in network.parameters() if p is not lit.tokenizer.decoder.last_layer]
    states = [t for o in optimizers for p in weights for t in o.state.get(p, {}).values() if t.ndim]
    gradients = [p for p in weights if p.requires_grad]
    return {"weights": size_of(weights), "gradients": size_of(gradients), "optimizer": size_of(states)}


def make_fake(module: nn.Module) -> None:
    """Replaces each parameter and buffer, which are on the meta device, by a fake tensor of the CPU.

    Autocast and many operations support the CPU but not the meta device.
    """
    fakes: dict[Tensor, Tensor] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter not in fakes:
                fake = torch.empty_like(parameter, device="cpu")
                fakes[parameter] = nn.Parameter(fake, parameter.requires_grad)
            setattr(owner, name, fakes[parameter])
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer not in fakes:
                fakes[buffer] = torch.empty_like(buffer, device="cpu")
            setattr(owner, name, fakes[buffer])
    for owner in module.modules():
        if isinstance(owner, Adversary):  # it has a list of them
            owner.trained = [fakes[parameter] for parameter in owner.trained]


def images_of(batch: int, size: int | tuple[int, int], channels: int) -> Tensor:
    return torch.empty(batch, channels, *((size, size) if isinstance(size, int) else size))


def size_of(tensors: Iterable[Any]) -> int:
    """Bytes of all tensors among the values."""
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
    counter = FlopCounterMode(display=False)
    tracker: Any = nullcontext()  # by module: its hooks refuse the gradient of R1
    tracker.parents = {"Global"}
    counter.mod_tracker = tracker
    with counter:
        result = function(tensor)
    return counter.get_total_flops(), result


def _parameters(lit: LitTokenizer) -> dict[str, WeightCount]:
    parts = dict(lit.tokenizer.named_children())
    parts |= {"discriminator": lit.adversary} if lit.adversary else {}
    groups = (lit.image_losses, lit.latent_losses, lit.layer_losses)
    parts |= {f"loss {name}": loss for losses in groups for name, loss in losses.items()}
    parts |= {"averaged weights": lit.average} if lit.average else {}
    counts = {name: WeightCount.of(part) for name, part in parts.items()}
    return {name: count for name, count in counts.items() if count.parameters or count.buffers}


def show(estimated: Estimate, memory: float | None, about: str) -> None:
    """Prints an estimate, and the batch that fits.

    Args:
        estimated: The estimate.
        memory: Memory of a GPU in bytes; None prints no batch.
        about: Description of the run, for the title.
    """
    table = Table(title=Text(visible(about), "bold"), title_justify="left", show_header=False)
    total = WeightCount(*map(sum, zip(*estimated.parameters.values(), strict=True)))
    for name, count in {**estimated.parameters, "all parameters": total}.items():
        few = (
            ""
            if count.parameters == count.trained
            else f"{count.trained:,} trained"
            if count.trained
            else "not trained"
        )
        buffers = f"+ {count.buffers:,} in buffers" if count.buffers else ""
        table.add_row(name, f"{count.parameters:,}", ", ".join(filter(None, (few, buffers))))
    table.add_section()
    for name, flops in estimated.flops.items():
        table.add_row(name, f"{flops / 1e9:,.2f} GFLOPs", "for each image")
    table.add_section()
    for name, size in estimated.memory.items():
        table.add_row(name, in_units(size), "for any batch")
    table.add_row("activations, their gradients", in_units(estimated.per_image), "for each image")
    table.add_row("peak", in_units(estimated.peak), f"with data.batch_size={estimated.batch}")
    get_console().print(table)
    if memory is None:
        return
    fitting = estimated.fitting(memory)
    say(
        f"{memory / GIB:g} GiB hold data.batch_size={fitting}, with {SLACK:.0%} and {in_units(CONTEXT)} kept free",
        "green" if fitting >= estimated.batch else "yellow",
    )


def in_units(size: float) -> str:
    """Bytes as text in MiB or GiB."""
    return f"{size / GIB:,.2f} GiB" if size >= GIB else f"{size / 2**20:,.1f} MiB"
