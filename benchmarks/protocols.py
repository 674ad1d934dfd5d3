"""One tokenizer by others under several protocols: how far the numbers move.

    python benchmarks/protocols.py --weights vqvae-cifar10-f4-k512.pt --data cifar10-jpeg32-test10k.npz --images 1000 \
        --network mobilenet_v2 --network-weights mobilenetv2-imagenet1k-features.pt

The tokenizer is the VQ-VAE of NimbleBoxAI/explore-weights (vqvae.pt): f4, 512 codewords of 128 dimensions, 32 pixels.
The data are images in the bytes of an ``.npz`` file (``data`` and ``offsets``), or below a folder.
"""

import argparse
import resource
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import hydra
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from vistok import Tokenizer, configuration, versions
from vistok.data import folder
from vistok.evaluation import ScoringNetworks, TokenizerReconstructions, score
from vistok.evaluation.identity import names_hash
from vistok.evaluation.report import score_table
from vistok.evaluation.report.page import page
from vistok.files import atomic_write
from vistok.images.ranges import PixelMap
from vistok.metrics import TorchvisionFeatures
from vistok.quantizers import VectorQuantizer

CONFIGS = Path(__file__).parent.parent / "configs"


class Residual(nn.Module):
    """h = ReLU(h) + two convolutions of it, twice: the skip adds the rectified value."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.wide = nn.ModuleList(nn.Conv2d(channels, hidden, 3, padding=1, bias=False) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Conv2d(hidden, channels, 1, bias=False) for _ in range(2))

    def forward(self, h: Tensor) -> Tensor:
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            h = F.relu(h)
            h = h + narrow(F.relu(wide(h)))
        return F.relu(h)


class Encoder(nn.Module):
    """(b, 3, H, W) to (b, 128, H/4, W/4)."""

    factor, dim = 4, 128

    def __init__(self):
        super().__init__()
        self.conv_1, self.conv_2 = nn.Conv2d(3, 64, 4, 2, 1), nn.Conv2d(64, 128, 4, 2, 1)
        self.conv_3, self.residual = nn.Conv2d(128, 128, 3, 1, 1), Residual(128, 64)

    def forward(self, images: Tensor) -> Tensor:
        return self.residual(self.conv_3(F.relu(self.conv_2(F.relu(self.conv_1(images))))))


class Decoder(nn.Module):
    """(b, 128, h, w) to (b, 3, 4 h, 4 w)."""

    factor, dim = 4, 128

    def __init__(self):
        super().__init__()
        self.conv_1, self.residual = nn.Conv2d(128, 128, 3, 1, 1), Residual(128, 64)
        self.conv_t_1, self.conv_t_2 = nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ConvTranspose2d(64, 3, 4, 2, 1)

    @property
    def last_layer(self) -> Tensor:
        return self.conv_t_2.weight

    def forward(self, latent: Tensor) -> Tensor:
        return self.conv_t_2(F.relu(self.conv_t_1(self.residual(self.conv_1(latent)))))


def read_tokenizer(weights: Path) -> Tokenizer:
    """The tokenizer in a file of the repository's names."""
    tokenizer = Tokenizer(
        Encoder(), VectorQuantizer(512, 128), Decoder(), to_latent=nn.Conv2d(128, 128, 1), pixels=PixelMap(scale=0.5)
    )
    state = {}
    for key, tensor in torch.load(weights, weights_only=True, map_location="cpu").items():
        key = key.replace("residual_blocks.residual_", "").replace("._blocks", "").replace("._block", "")
        for number in "01":
            key = key.replace(f"residual.{number}.conv_1", f"residual.wide.{number}")
            key = key.replace(f"residual.{number}.conv_2", f"residual.narrow.{number}")
        state[key.replace("pre_vq_conv", "to_latent").replace("vq_vae.codebook.weight", "quantizer.table")] = tensor
    own = tokenizer.state_dict()
    missing = set(own) - set(state)
    unexpected = set(state) - set(own)
    if unexpected or any("table" in name or "weight" in name for name in missing):
        raise ValueError(f"{weights} does not fit: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    tokenizer.load_state_dict(state, strict=False)
    return tokenizer.eval().requires_grad_(False)


def unpack(archive: Path, count: int, into: Path) -> None:
    """The first images of an ``.npz`` file as files, from its start again where it has too few."""
    held = np.load(archive)
    data, offsets = held["data"], held["offsets"]
    for i in range(count):
        j = i % (len(offsets) - 1)
        (into / f"{i:06d}.jpg").write_bytes(data[offsets[j] : offsets[j + 1]].tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="vqvae-cifar10-f4-k512.pt")
    parser.add_argument("--data", type=Path, required=True, help="an .npz file of images, or a folder")
    parser.add_argument("--images", type=int, default=1000, help="of the .npz file")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--network", help="of torchvision, for a Fréchet distance")
    parser.add_argument("--network-weights", default="pretrained")
    parser.add_argument("--page", type=Path, help="also write eval.py's page to this file")
    parser.add_argument(
        "--protocols", nargs="+", default=["canonical", "llamagen", "openmagvit2", "ibq", "titok", "fvq"]
    )
    options = parser.parse_args()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        chosen = f"protocol=[{','.join(options.protocols)}]"
        protocols = configuration.instantiate(hydra.compose("eval", overrides=["tokenizer=x", chosen]).protocol)
    networks = (TorchvisionFeatures(options.network, options.network_weights),) if options.network else ()
    console = Console()
    with TemporaryDirectory() as place:
        if options.data.suffix == ".npz":
            unpack(options.data, options.images, Path(place))
        root = Path(place) if options.data.suffix == ".npz" else options.data
        data = folder(str(root), options.image_size, batch_size=50 if options.image_size <= 64 else 4, num_workers=1)
        (result,) = score(
            [TokenizerReconstructions(read_tokenizer(options.weights))],
            data,
            protocols,
            ScoringNetworks(networks),
            console=console,
        )
    metrics = result.metrics(protocols)
    report = {
        "data": {
            "source": options.data.name,
            "images": len(result.names),
            "image_size": options.image_size,
            "sha256_of_names": names_hash(result.names),
        },
        "scores": [
            {"tokenizer": options.weights.name, "protocol": name, "hash": protocols[name].hash, "metrics": own}
            for name, own in metrics.items()
        ],
        "protocols": {name: {"hash": own.hash, **asdict(own)} for name, own in protocols.items()},
        "tokenizers": [{"tokenizer": options.weights.name, "sha256": result.fingerprint}],
        "unavailable": {},
        "rate": None,
        "dtype": "float32",
        "versions": versions.versions(),
        "config": {name: str(value) for name, value in vars(options).items()},
    }
    report["data"]["unreadable"] = result.unreadable
    if options.page:
        with atomic_write(options.page) as file:
            file.write(page(report, [result.scores]).encode())
    console.width = max(console.width, 120)
    console.print(score_table.scores_table(report))
    console.print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB", highlight=False)


if __name__ == "__main__":
    main()
