"""Growth of an evaluation's cost with the number of images: CPU time and memory, in one process, one thread.

    PYTHONPATH=tokenizers python benchmarks/evaluation_growth.py --weights vqvae-cifar10-f4-k512.pt \
        --data cifar10-jpeg32-test10k.npz --features --plot growth.png [--gate]

The tokenizer is that of ``protocols.py``, the protocol ``canonical``; images of the archive are repeated where they are
too few. The state is saved every minute, as by ``eval``. ``--network`` adds a Fréchet distance, whose last step costs
the same however many images there were once they are more than the features; ``--features`` adds one of as many
features as Inception has, of a random linear map. With ``--gate`` memory that has grown by more than a tenth between
5,000 images and the last is an exit status of 1.
"""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import NullFormatter
from protocols import read_tokenizer, unpack
from torch import Tensor, nn

from vistok.data import folder
from vistok.evaluation import Protocol, ScoringNetworks, TokenizerReconstructions, accumulator, score
from vistok.evaluation.set_metrics import SetMetrics
from vistok.metrics import TorchvisionFeatures
from vistok.metrics.feature_networks import FeatureNetwork
from vistok.speed import keep_freed_pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="vqvae-cifar10-f4-k512.pt")
    parser.add_argument("--data", type=Path, required=True, help="an .npz file of images")
    parser.add_argument("--at", type=int, nargs="+", default=[1000, 2000, 5000, 10000, 20000, 50000])
    parser.add_argument("--network", help="of torchvision, for a Fréchet distance")
    parser.add_argument("--network-weights", default="pretrained")
    parser.add_argument("--features", action="store_true", help="2,048 random features, for a Fréchet distance")
    parser.add_argument("--default-heap", action="store_true", help="leave glibc's settings alone")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--gate", action="store_true", help="exit with 1 if memory grows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.default_heap:
        keep_freed_pages()  # as eval.py does
    rows: list[tuple[int, float, float, float]] = []
    update = accumulator.Scores.update

    def noting(self: accumulator.Scores, *arguments) -> None:
        update(self, *arguments)
        if len(self.names) in options.at:
            rows.append((len(self.names), time.process_time() - began, memory("VmRSS"), memory("VmHWM")))
            count, seconds, resident, peak = rows[-1]
            figures = f"{seconds:.1f} | {1000 * seconds / count:.2f} | {resident:,.0f} | {peak:,.0f}"
            print(f"| {count:,} | {figures} |", flush=True)

    accumulator.Scores.update = noting
    print(
        "| images | CPU s | ms an image | resident, MiB | at most, MiB |\n| --- | --- | --- | --- | --- |", flush=True
    )
    networks: tuple[FeatureNetwork, ...] = (RandomFeatures(),) if options.features else ()
    if options.network:
        networks += (TorchvisionFeatures(options.network, options.network_weights),)
    protocol = Protocol(distances=["psnr", "ssim_gauss11", "ssim_skimage7", "l1"])
    with TemporaryDirectory() as place:
        unpack(options.data, max(options.at), Path(place))
        data = folder(place, 32, batch_size=50, num_workers=1)
        began = time.process_time()
        (result,) = score(
            [TokenizerReconstructions(read_tokenizer(options.weights))],
            data,
            {"canonical": protocol},
            ScoringNetworks(networks),
            partial_folder=Path(place),
            asked=SetMetrics(intervals=bool(networks)),  # as by default: features of single images lie on disk
        )
    passed = time.process_time() - began
    result.metrics({"canonical": protocol})
    print(f"the numbers themselves: {time.process_time() - began - passed:.2f} CPU s")
    print(f"at most with the intervals, which come after the last image: {memory('VmHWM'):,.0f} MiB")
    if options.plot:
        draw(rows, options.plot)
    first, _, _, peak = next((row for row in rows if row[0] >= 5000), rows[0])
    grown = rows[-1][3] / peak - 1
    print(f"memory has grown by {100 * grown:.1f} % since {first:,} images")
    sys.exit(1 if options.gate and grown > 0.1 else 0)


class RandomFeatures(FeatureNetwork):
    """As many features as Inception pools, at the cost of one matrix product."""

    name, dim = "random", 2048

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3 * 32 * 32, self.dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.map(images.flatten(1) / 255).relu()


def memory(name: str) -> float:
    """MiB of this process, as the kernel says: ``VmRSS`` now, ``VmHWM`` at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def draw(rows: list[tuple[int, float, float, float]], path: Path) -> None:
    counts = [row[0] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.loglog(counts, [row[1] for row in rows], "o-", color="#1f66c9")
    left.set(xlabel="images", ylabel="CPU seconds", title="time")
    right.semilogx(counts, [row[3] for row in rows], "o-", color="#1f66c9", label="at most")
    right.semilogx(counts, [row[2] for row in rows], "s--", color="#c8560a", label="resident")
    right.set(
        xlabel="images", ylabel="MiB", title="memory of the process", ylim=(0, 1.25 * max(row[3] for row in rows))
    )
    right.legend(loc="lower right")
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter(NullFormatter())
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
