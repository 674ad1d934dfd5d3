"""Demands of a run on many GPUs on network, storage and processors, from its config; and the measurable part.

    python benchmarks/scaling.py experiment=llamagen_vq16_imagenet256 [--gpus 8 64 512] [--network 50 ...]
    python benchmarks/scaling.py --measure WORDS ...

The first counts real tensors: it runs the recipe's own training step on fake ones, which have shapes and no values, and
records each call of torch.distributed. What it cannot know are arguments: a GPU's speed, the network, the storage. The
second trains with 2 gloo processes and compares the bytes that went through torch.distributed, and the size of a
checkpoint, with the count. Prints tables; with ``--measure`` exit status 1 if they differ.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import hydra
import numpy as np
import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch._subclasses.fake_tensor import FakeTensorMode

from vistok.quantizers import code_statistics
from vistok.training import run
from vistok.training.cost import LiveMemory, Step, estimate, images_of, make_fake, size_of
from vistok.training.module import LitTokenizer

ROOT = Path(__file__).parent.parent
LIGHTNING = "Lightning's own"
DEAD = "latents that dead codewords move to"
NAMES = {  # who calls torch.distributed: the functions of vistok
    "gradient_ratio": "gradients of the last layer, for the adaptive weight",
    "decide": "whether all is finite, statistics of codes and logits",
    "sample": "which latents dead codewords move to",
    "gathered": DEAD,
    "_fit": LIGHTNING,
    "training_step": LIGHTNING,
}
MANAGED = "gradients of trained parameters"
MIB, GB = 2**20, 1e9


class Recorder:
    """Bytes that a rank gives to collectives, by the function of vistok that asks for them."""

    def __init__(self):
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def add(self, tensor: torch.Tensor, name: str | None = None) -> None:
        name = name or self._caller()
        self.bytes[name] += tensor.numel() * tensor.element_size()
        self.calls[name] += 1

    @staticmethod
    def _caller() -> str:
        frame = sys._getframe(2)
        while frame:
            module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
            if (
                module.startswith("vistok.")
                and module != "vistok.distributed.collectives"
                and not function.startswith("<")
            ):
                return NAMES.get(function, f"{module}.{function}")
            frame = frame.f_back
        return LIGHTNING

    @contextmanager
    def recording(self, ranks: int | None = None) -> Iterator[None]:
        """Record all collectives; with ``ranks``, pretend that there are so many and send nothing."""
        with ExitStack() as stack:
            for name in ("all_reduce", "broadcast", "all_gather"):
                stack.enter_context(patch.object(dist, name, self._watched(getattr(dist, name), ranks)))
            if ranks:
                for name, value in (("is_initialized", True), ("get_rank", 0), ("get_world_size", ranks)):
                    stack.enter_context(patch.object(dist, name, lambda *_, value=value: value))
            yield

    def _watched(self, collective: Any, ranks: int | None) -> Any:
        def watched(first: Any, *arguments: Any, **named: Any) -> Any:
            self.add(arguments[0] if isinstance(first, list) else first)
            return None if ranks else collective(first, *arguments, **named)

        return watched


class Reduction(torch.nn.Module):
    """Records, in the place of a reducer, the gradients that it would send."""

    def __init__(self, recorder: Recorder, parameters: Sequence[torch.nn.Parameter]):
        super().__init__()
        self.recorder, self.size = recorder, size_of(parameters)

    def forward(self, loss: torch.Tensor) -> torch.Tensor:
        self.recorder.bytes[MANAGED] += self.size
        self.recorder.calls[MANAGED] += 1
        return loss


class Counted(NamedTuple):
    """Parts of an update and of a checkpoint of a config, in bytes."""

    traffic: dict[str, int]  # bytes of one update, for each rank, by what it is for
    calls: dict[str, int]  # of those, as one for each backward pass that reduces gradients
    checkpoint: int
    weights: int


def count(config: DictConfig, ranks: int) -> Counted:
    """Run two updates on fake tensors, the second one recorded, with the discriminator where the run has one."""
    with torch.device("meta"):
        lit = run.build_module(config)
    recorder = Recorder()
    with FakeTensorMode(allow_non_fake_inputs=True), LiveMemory():
        make_fake(lit)
        step = Step(lit, gpu=True, mixed=False)
        images = images_of(config.data.batch_size, config.data.image_size, config.data.get("channels", 3))
        step(images)
        lit.accumulate = config.optim.accumulate
        lit.reducers = [Reduction(recorder, parameters) for parameters in lit.trained]
        with recorder.recording(ranks), patch.object(code_statistics, "gathered", lambda samples, rows: samples):
            step(images)  # how many codewords are dead depends on the data
        states = size_of(t for o in step.optimizers for state in o.state.values() for t in state.values())
        weights = size_of(lit.saved(lit.state_dict()).values())
    return Counted(dict(recorder.bytes), dict(recorder.calls), weights + states, weights)


def decoded_per_second() -> float:
    """Images that one core of this machine reads: JPEG of 500 x 375 pixels to a random crop of 256, 8 bits."""
    import io

    from PIL import Image
    from skimage.data import coffee

    from vistok.data.transforms import croppings
    from vistok.images.crops import to_tensor
    from vistok.images.decoding import read_rgb

    file = io.BytesIO()
    Image.fromarray(coffee()).resize((500, 375)).save(file, "JPEG", quality=92)
    transforms, _ = croppings("adm", 256, None, 0.8, True)
    times, rng = [], np.random.default_rng(0)
    for _ in range(60):
        began, image = time.process_time(), read_rgb(io.BytesIO(file.getvalue()))
        for transform in transforms:
            image = transform(image, rng)
        to_tensor(image)
        times.append(time.process_time() - began)
    return 1 / float(np.median(times))


def demands(config: DictConfig, counted: Counted, flops: float, gpus: int, asked: argparse.Namespace) -> dict[str, Any]:
    """For so many GPUs, seconds and rates; each ``... / ...`` is what is needed by what there is."""
    nodes = math.ceil(gpus / asked.per_node)
    images = config.data.batch_size * config.optim.accumulate
    compute = images * flops / (asked.tflops * 1e12)
    total = sum(counted.traffic.values())
    inside = min(gpus, asked.per_node)
    network = 2 * (nodes - 1) / nodes * total / (asked.network * GB)
    reducing = network + 2 * (inside - 1) / inside * total / (asked.nvlink * GB)
    rate = gpus * images / max(compute, reducing)
    every = (config.log.save_every or config.log.val_every) * max(compute, reducing)
    readers = gpus * asked.workers
    writing = counted.checkpoint / (asked.write * GB)
    validation = asked.val_images * asked.image_bytes * max(1, readers / asked.val_shards)  # see data.ShardImages
    return {
        "images in an update": gpus * images,
        "images per second": rate,
        "computing, s": compute,
        "all-reduce, s": reducing,
        "all-reduce / computing": reducing / compute,
        "read, MB/s": rate * asked.image_bytes / 1e6,
        "read / storage": rate * asked.image_bytes / (asked.read * GB),
        "decoding cores for a node": rate / nodes / asked.decode,
        "decoding cores / cores": rate / nodes / asked.decode / asked.cores,
        "readers / shards": readers / asked.shards,
        "checkpoint written, s": writing,
        "writing / time between": writing / every,
        "all ranks read it at a start, s": gpus * counted.checkpoint / (asked.read * GB),
        "validation reads, GB": validation / GB,
        "reading validation, s": validation / (asked.read * GB),
    }


def compose(words: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return hydra.compose("train", overrides=[*words, "run.frozen_weights=random"])


def show(words: Sequence[str], asked: argparse.Namespace) -> None:
    config = compose(words)

    def build() -> LitTokenizer:
        return run.build_module(config)

    flops = estimate(build, config.data.image_size, 1, gpu=True, precision="bf16-mixed").flops["a training update"]
    columns = {}
    for gpus in asked.gpus:
        counted = count(config, gpus)
        columns[gpus] = demands(config, counted, flops, gpus, asked)
    print(
        f"data.batch_size={config.data.batch_size} optim.accumulate={config.optim.accumulate} "
        f"data.image_size={config.data.image_size}"
    )
    print(f"{flops / 1e9:,.0f} GFLOPs for an image\n")
    rows = [["what each rank gives to an update's collectives", "MiB", "calls"]]
    rows += [[name, f"{size / MIB:,.3f}", f"{counted.calls[name]}"] for name, size in counted.traffic.items()]
    rows += [[name, f"{size / MIB:,.1f}", ""] for name, size in
             (("checkpoint", counted.checkpoint), ("of it weights", counted.weights))]  # fmt: skip
    print(markdown(rows) + "\n")
    rows = [["GPUs", *(f"{gpus:,}" for gpus in asked.gpus)]]
    rows += [[name, *(number(column[name]) for column in columns.values())] for name in next(iter(columns.values()))]
    print(markdown(rows))


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rank(words: Sequence[str], folder: Path) -> None:
    """One of the two processes: train, and write down what went through torch.distributed in the last update."""
    import pytorch_lightning as pl
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    recorder, start, all_reduce = Recorder(), pl.LightningModule.on_train_start, dist.all_reduce

    def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        recorder.add(bucket.buffer(), MANAGED)
        with patch.object(dist, "all_reduce", all_reduce):  # its own call is this one
            return allreduce_hook(None, bucket)

    def begin(lit: LitTokenizer) -> None:
        start(lit)
        for reducer in lit.reducers:
            reducer.register_comm_hook(None, hook)

    learn, before = LitTokenizer._finish_update, {}

    def finish(lit: LitTokenizer, adversarial: bool) -> None:
        learn(lit, adversarial)
        before[lit.updates] = dict(recorder.bytes), dict(recorder.calls)

    config = compose([*words, f"run.dir={folder}/run"])
    config.run.frozen_weights, config.run.debug = "random", True
    with (
        recorder.recording(),
        patch.object(LitTokenizer, "on_train_start", begin),
        patch.object(LitTokenizer, "_finish_update", finish),
    ):
        run.train(config, [])
    last = max(before)
    traffic, calls = (
        {name: number - earlier.get(name, 0) for name, number in later.items() if number > earlier.get(name, 0)}
        for later, earlier in zip(before[last], before[last - 1], strict=True)
    )
    if dist.get_rank() == 0 if dist.is_initialized() else os.environ["RANK"] == "0":
        (folder / "measured.json").write_text(json.dumps([traffic, calls]))


def measure(words: Sequence[str]) -> bool:
    """Checks that two gloo processes send and save the counted bytes."""
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    words = [*words, *ranks, "optim.updates=4", "log.val_every=4", "log.every=100", "trainer.limit_val_batches=1"]
    counted = count(compose(words), 2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, "--rank",
             temporary, *words],
            env={**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"}, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        measured, calls = json.loads((folder / "measured.json").read_text())
        file = folder / "run" / "checkpoints" / "last.ckpt"
        saved = torch.load(file, weights_only=True)
        tensors = size_of(saved["state_dict"].values())
        tensors += size_of(t for o in saved["optimizer_states"] for s in o["state"].values() for t in s.values())
        size = file.stat().st_size
    rows = [["bytes of an update for each rank", "counted", "2 gloo processes", "calls"]]
    for name in {**counted.traffic, **measured}:
        sizes = f"{counted.traffic.get(name, 0):,}", f"{measured.get(name, 0):,}"
        rows.append([name, *sizes, f"{calls.get(name, 0)}"])
    rows.append(["tensors in a checkpoint", f"{counted.checkpoint:,}", f"{tensors:,} in a file of {size:,}", ""])
    print(markdown(rows))
    measured.pop(LIGHTNING, None)
    measured.pop(DEAD, None)
    return counted.traffic == measured and counted.checkpoint == tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="of train.py")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--per-node", type=int, default=8, help="GPUs of a machine")
    parser.add_argument("--tflops", type=float, default=200, help="what a GPU sustains on this recipe, 10^12 FLOPs/s")
    parser.add_argument("--network", type=float, default=50, help="of a machine, GB/s")
    parser.add_argument("--nvlink", type=float, default=300, help="between a machine's GPUs, GB/s")
    parser.add_argument("--read", type=float, default=10, help="of the shared storage, GB/s")
    parser.add_argument("--write", type=float, default=1, help="of one process to it, GB/s")
    parser.add_argument("--image-bytes", type=float, default=108_000, help="of a training image's file")
    parser.add_argument("--val-images", type=int, default=50_000)
    parser.add_argument("--val-shards", type=int, default=50)
    parser.add_argument("--shards", type=int, default=1282, help="ImageNet's with 1,000 images in each")
    parser.add_argument("--workers", type=int, default=8, help="of each process")
    parser.add_argument("--cores", type=int, default=96, help="of a machine")
    parser.add_argument("--decode", type=float, help="images that a core reads in a second; measured here if not given")
    parser.add_argument("--measure", action="store_true", help="count against 2 gloo processes")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank:
        rank(asked.words, Path(asked.rank))
    elif asked.measure:
        sys.exit(not measure(asked.words))
    else:
        asked.decode = asked.decode or decoded_per_second()
        print(f"a core reads {asked.decode:.0f} images a second")
        show(asked.words, asked)


if __name__ == "__main__":
    main()
