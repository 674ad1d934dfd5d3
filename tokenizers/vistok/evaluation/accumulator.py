"""What is kept of a tokenizer's reconstructions while they go by, and the numbers that come of it.

One ``Scores`` serves all protocols that cut images alike: each image is reconstructed once, and what protocols share
(8-bit pixels, features, distances) is made once.
"""

import math
from array import array
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from vistok.evaluation.examples import Examples
from vistok.evaluation.networks import ScoringNetworks, score_names
from vistok.evaluation.pairs import Pairs
from vistok.evaluation.protocols import Protocol
from vistok.images.ranges import to_float
from vistok.metrics.distances import DISTANCES, MS_SSIM_SMALLEST, SSIM_WINDOW
from vistok.metrics.feature_networks import Inception
from vistok.metrics.frechet import FeatureStatistics
from vistok.metrics.inception_score import InceptionScore
from vistok.metrics.reconstruction import block_mean, psnr
from vistok.metrics.states import Accumulator, Reduction, to_vector
from vistok.metrics.usage import CodebookUsage, DistinctTuples, split, usages_of
from vistok.quantizers import Codes, Layout, Quantized
from vistok.tokenizer import Tokenizer

BASELINE = "psnr_block_mean"  # beside every PSNR
PLAIN = Protocol()


class Scores(Accumulator):
    """Everything that one tokenizer gets for one cut of the images.

    Args:
        protocols: By name; all have the same ``crop``.
        tokenizer: What is scored.
        networks: The networks, on ``device``.
        references: Statistics of the images themselves, by ``reference_name``: where they are known, the networks see
            reconstructions only.
        unavailable: Distances that these images do not have; see ``too_small``.
        device: Where images come from.
        examples: What keeps the images that a report shows, if it shows any of this cut.
        granularities: Of the head: how many there are for a region to have.

    Attributes:
        names: Of the images.
        unreadable: Images that could not be read, and why.
        tokens: Of each image, positions that are tokens.
        distances: Of each image, by protocol/distance.
        positions: Of an image.
        pixels: Of an image.
        images: Feature statistics of the images, by ``reference_name``, where the references lack them.
        reconstructions: Those of the reconstructions.
        inception_scores: By view.
    """

    names: list[str]
    unreadable: list[str]
    tokens: array
    distances: dict[str, array]
    positions: int
    pixels: int
    examples: Examples | None
    usage: CodebookUsage
    tuples: DistinctTuples | None
    images: dict[str, FeatureStatistics]
    reconstructions: dict[str, FeatureStatistics]
    inception_scores: dict[str, InceptionScore]

    def __init__(
        self,
        protocols: Mapping[str, Protocol],
        tokenizer: Tokenizer,
        networks: ScoringNetworks = ScoringNetworks(),
        references: Mapping[str, FeatureStatistics] | None = None,
        unavailable: Collection[str] = (),
        device: torch.device | str = "cpu",
        examples: Examples | None = None,
        granularities: int = 1,
    ):
        super().__init__()
        self.protocols, self.networks, self.unavailable = dict(protocols), networks, unavailable
        self.head, self.factor, self.granularities = tokenizer.quantizer, tokenizer.factor, granularities
        self.references = dict(references or {})
        self.declare("names", [], Reduction.CONCATENATION)
        self.declare("unreadable", [], Reduction.UNION)
        # Arrays that double: a small tensor of each batch would pin the memory of the large ones freed below it.
        self.declare("tokens", array("q"), Reduction.CONCATENATION)
        self.declare(
            "distances",
            {
                f"{name}/{distance}": array("f")
                for name, protocol in self.protocols.items()
                for distance in self._own(protocol)
            },
            Reduction.CONCATENATION,
        )
        self.declare("positions", 0, Reduction.LARGEST)
        self.declare("pixels", 0, Reduction.LARGEST)
        self.declare("examples", examples)
        self.declare("usage", CodebookUsage(self.head.codebook_sizes).to(device))
        self.declare("tuples", DistinctTuples(len(self.usage.parts)) if len(self.usage.parts) > 1 else None)
        images, reconstructions, inception_scores = {}, {}, {}
        for view in {protocol.view: None for protocol in self.protocols.values()}:
            for network in networks.feature_networks:
                for score, dim in score_names(network).items():
                    name = reference_name(view, score)
                    reconstructions[name] = FeatureStatistics(dim, device)
                    if name not in self.references:
                        images[name] = FeatureStatistics(dim, device)
                if isinstance(network, Inception):
                    inception_scores["/".join(view)] = InceptionScore(device=device)
        self.declare("images", images)
        self.declare("reconstructions", reconstructions)
        self.declare("inception_scores", inception_scores)

    def update(self, names: Sequence[str], images: Tensor, reconstruction: Tensor, emitted: Codes | Quantized) -> None:
        """Add a batch.

        Args:
            names: Of the images.
            images: (b, 3, H, W) uint8, at least 11 pixels high and wide.
            reconstruction: The same shape, float in [-1, 1], unclamped.
            emitted: The codes that it is of.

        Raises:
            ValueError: A reconstruction is not finite, or images are too small.
        """
        broken = ~reconstruction.isfinite().flatten(1).all(1)
        if broken.any():
            which = ", ".join(name for name, bad in zip(names, broken.tolist(), strict=True) if bad)
            raise ValueError(f"the reconstruction has NaN or infinite pixels, of {which}")
        if min(images.shape[-2:]) < SSIM_WINDOW:
            size = "x".join(map(str, images.shape[-2:]))
            raise ValueError(f"images of {size} pixels are smaller than SSIM's window of {SSIM_WINDOW}")
        pairs = Pairs(images, reconstruction)
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would change the numbers
            self._compare(pairs)
            self._look(names, pairs)
            if self.examples:
                self.examples.update(names, self._example_distances(pairs), *pairs.levels(PLAIN)[::-1])
        codes, keep = emitted.codes, emitted.keep
        self.usage.update(codes, keep)
        if self.tuples:
            self.tuples.update(split(codes, self.usage.parts), keep)
        self.positions, self.pixels = codes[0, 0].numel(), images[0, 0].numel()
        kept = torch.full((len(codes),), self.positions) if keep is None else keep.flatten(1).sum(1).cpu()
        self.tokens.extend(kept.tolist())
        self.names += names

    def _compare(self, pairs: Pairs) -> None:
        for name, protocol in self.protocols.items():
            for distance in self._own(protocol):
                values = self._distance(distance, protocol, pairs)
                self.distances[f"{name}/{distance}"].extend(values.float().tolist())

    def _distance(self, distance: str, protocol: Protocol, pairs: Pairs) -> Tensor:
        """Of each image, (b,)."""
        if distance in self.networks.lpips:
            sides = pairs.floats() if protocol.lpips == "float" else map(to_float, pairs.levels(protocol))
            lpips = self.networks.lpips[distance]
            key = (distance, protocol.lpips == "float" or protocol.rounding)
            return pairs.once(key, lambda: lpips.distance(*sides).flatten())
        if distance == BASELINE:
            images = pairs.levels(protocol)[1]
            return psnr(block_mean(images, self.factor), images)
        return pairs.once((distance, protocol.rounding), lambda: DISTANCES[distance](*pairs.levels(protocol)))

    @property
    def example_distance(self) -> str:
        """What the best and the worst examples are chosen by: LPIPS where it can be had."""
        return next(iter(self.networks.lpips), "1 - ssim_gauss11")

    def _example_distances(self, pairs: Pairs) -> Tensor:
        if self.networks.lpips:
            return self._distance(self.example_distance, PLAIN, pairs)
        return 1 - self._distance("ssim_gauss11", PLAIN, pairs)

    def _look(self, names: Sequence[str], pairs: Pairs) -> None:
        for protocol in {protocol.view: protocol for protocol in self.protocols.values()}.values():
            for network in self.networks.feature_networks:
                reconstruction, images = pairs.shown(protocol, network)
                own = next(iter(score_names(network)))
                for statistics, side in ((self.reconstructions, reconstruction), (self.images, images)):
                    if reference_name(protocol.view, own) not in statistics:
                        continue
                    if isinstance(network, Inception):
                        seen = network.look(side, protocol.frechet)
                        features = (seen.pool, seen.spatial)
                        if statistics is self.reconstructions:
                            self.inception_scores["/".join(protocol.view)].update(names, seen.logits)
                    else:
                        features = (network(side),)
                    for score, values in zip(score_names(network), features, strict=True):
                        statistics[reference_name(protocol.view, score)].update(values)

    def _own(self, protocol: Protocol) -> list[str]:
        """The distances of a protocol that can be had."""
        had = [name for name in protocol.distances if DISTANCES[name] or name in self.networks.lpips]
        had = [name for name in had if name not in self.unavailable]
        return had + [BASELINE] * ("psnr" in had)

    def gather(self) -> "Scores":
        """Make this the scores of all ranks, on each of them, with images in the order of their names."""
        super().gather()
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        self.names = [self.names[i] for i in order]
        self.tokens, *distances = (
            array(own.typecode, [own[i] for i in order]) for own in (self.tokens, *self.distances.values())
        )
        self.distances = dict(zip(self.distances, distances, strict=True))
        return self

    def values(self, protocol: str) -> dict[str, Tensor]:
        """Of each image, by the name of the distance: (n,) float32, in the order of ``names``."""
        prefix = f"{protocol}/"
        return {k.removeprefix(prefix): to_vector(v) for k, v in self.distances.items() if k.startswith(prefix) and v}

    def metrics(self, protocol: str) -> dict[str, float]:
        """All numbers of a protocol by name, after ``gather``."""
        values = {name: own.double().mean().item() for name, own in self.values(protocol).items()}
        view = self.protocols[protocol].view
        for network in self.networks.feature_networks:
            for score in score_names(network):
                name = reference_name(view, score)
                reference = self.references.get(name) or self.images[name]
                values[score] = reference.distance(self.reconstructions[name]).item()
            if isinstance(network, Inception):
                suffix = "" if network.official else f"_{network.name}"
                values[f"inception_score{suffix}"] = self.inception_scores["/".join(view)].compute()
        return values | self._code_metrics()

    def _code_metrics(self) -> dict[str, float]:
        tokens, n = to_vector(self.tokens).double(), len(self.names)
        counts = self.usage.counts
        use = {name: value.item() for name, value in usages_of(counts).items()}
        k = len(self.head.codebook_sizes)
        fixed = sum(map(math.log2, self.head.codebook_sizes))
        entropy = sum(use[name] for name in use if name.startswith("entropy_bits"))
        grain = Layout(((1, self.positions),), k, self.granularities).granularity_bits
        mean = use.pop("tokens") / n
        bits, by_entropy = mean * fixed + grain, mean * entropy + grain
        if self.tuples:
            use["distinct_tuples"] = float(len(self.tuples.tuples()))
        spread = {}
        if tokens.min() < tokens.max():
            spread = {
                "tokens_per_image_min": k * tokens.min().item(),
                "tokens_per_image_std": k * tokens.std().item(),
                "tokens_per_image_max": k * tokens.max().item(),
            }
        return use | {
            "tokens": tokens.sum().item(),
            "tokens_per_image": k * mean,
            **spread,
            "bits_per_image": bits,
            "bits_per_image_entropy": by_entropy,
            "bits_per_pixel": bits / self.pixels,
            "bits_per_pixel_entropy": by_entropy / self.pixels,
            "images": float(n),
        }


def reference_name(view: Sequence[str], score: str) -> str:
    """What statistics of images are called: by all that they depend on besides the images and their cut."""
    return "/".join([*view, score])


def too_small(protocol: Protocol, image_size: int) -> dict[str, str]:
    """The distances of a protocol that images of this size do not have, and why."""
    if "ms_ssim" in protocol.distances and image_size < MS_SSIM_SMALLEST:
        return {"ms_ssim": f"its five scales need images of {MS_SSIM_SMALLEST} pixels, not {image_size}"}
    return {}
