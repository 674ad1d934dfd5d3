"""What is kept of a tokenizer's reconstructions while they go by, and the numbers that come of it.

One ``Scores`` serves all protocols that cut images alike: each image is reconstructed once, and what protocols share
(8-bit pixels, features, distances) is made once.
"""

import math
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from vistok.evaluation.examples import Examples
from vistok.evaluation.judges import Judges, score_names
from vistok.evaluation.pairs import Pairs
from vistok.evaluation.protocols import Protocol
from vistok.metrics.distances import DISTANCES, MS_SSIM_SMALLEST, SSIM_WINDOW
from vistok.metrics.features import Inception
from vistok.metrics.frechet import FeatureStatistics
from vistok.metrics.inception_score import InceptionScore
from vistok.metrics.reconstruction import block_mean, psnr
from vistok.metrics.usage import CodebookUsage, DistinctTuples, split, usages_of
from vistok.pixels import to_float
from vistok.quantizers import Codes, Layout, Quantized
from vistok.ranks import from_all_ranks, sum_over_ranks
from vistok.tokenizer import Tokenizer

BASELINE = "psnr_block_mean"  # beside every PSNR
PLAIN = Protocol()


class Scores:
    """Everything that one tokenizer gets for one cut of the images.

    Args:
        protocols: By name; all have the same ``crop``.
        tokenizer: What is scored.
        judges: The networks, on ``device``.
        references: Statistics of the images themselves, by ``reference_name``: where they are known, the networks see
            reconstructions only.
        left_out: Distances that these images do not have; see ``too_small``.
        device: Where images come from.
        examples: What keeps the images that a report shows, if it shows any of this cut.
        granularities: Of the head: how many there are for a region to have.
    """

    def __init__(
        self,
        protocols: Mapping[str, Protocol],
        tokenizer: Tokenizer,
        judges: Judges = Judges(),
        references: Mapping[str, FeatureStatistics] | None = None,
        left_out: Collection[str] = (),
        device: torch.device | str = "cpu",
        examples: Examples | None = None,
        granularities: int = 1,
    ):
        self.protocols, self.judges, self.left_out = dict(protocols), judges, left_out
        self.head, self.factor, self.granularities = tokenizer.quantizer, tokenizer.factor, granularities
        self.references = dict(references or {})
        self.names: list[str] = []
        self.unreadable: list[str] = []
        # Arrays that double: a small tensor of each batch would pin the memory of the large ones freed below it.
        self.tokens = array("q")  # of each image: positions that are tokens
        self.distances = {  # protocol/distance, of each image
            f"{name}/{distance}": array("f")
            for name, protocol in self.protocols.items()
            for distance in self._own(protocol)
        }
        self.positions, self.pixels = 0, 0  # of an image
        self.examples = examples
        self.usage = CodebookUsage(self.head.codebook_sizes).to(device)
        self.tuples = DistinctTuples(len(self.usage.parts)) if len(self.usage.parts) > 1 else None
        self.images: dict[str, FeatureStatistics] = {}
        self.reconstructions: dict[str, FeatureStatistics] = {}
        self.inception_scores: dict[str, InceptionScore] = {}
        for view in {protocol.view for protocol in self.protocols.values()}:
            for network in judges.networks:
                for score, dim in score_names(network).items():
                    name = reference_name(view, score)
                    self.reconstructions[name] = FeatureStatistics(dim, device)
                    if name not in self.references:
                        self.images[name] = FeatureStatistics(dim, device)
                if isinstance(network, Inception):
                    self.inception_scores["/".join(view)] = InceptionScore(device=device)

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
        if distance in self.judges.lpips:
            sides = pairs.floats() if protocol.lpips == "float" else map(to_float, pairs.levels(protocol))
            lpips = self.judges.lpips[distance]
            key = (distance, protocol.lpips == "float" or protocol.rounding)
            return pairs.once(key, lambda: lpips.distance(*sides).flatten())
        if distance == BASELINE:
            images = pairs.levels(protocol)[1]
            return psnr(block_mean(images, self.factor), images)
        return pairs.once((distance, protocol.rounding), lambda: DISTANCES[distance](*pairs.levels(protocol)))

    @property
    def example_distance(self) -> str:
        """What the best and the worst examples are chosen by: LPIPS where it can be had."""
        return next(iter(self.judges.lpips), "1 - ssim_gauss11")

    def _example_distances(self, pairs: Pairs) -> Tensor:
        if self.judges.lpips:
            return self._distance(self.example_distance, PLAIN, pairs)
        return 1 - self._distance("ssim_gauss11", PLAIN, pairs)

    def _look(self, names: Sequence[str], pairs: Pairs) -> None:
        for protocol in {protocol.view: protocol for protocol in self.protocols.values()}.values():
            for network in self.judges.networks:
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
        had = [name for name in protocol.distances if DISTANCES[name] or name in self.judges.lpips]
        had = [name for name in had if name not in self.left_out]
        return had + [BASELINE] * ("psnr" in had)

    def gather(self) -> "Scores":
        """Make this the scores of all ranks, on each of them, with images in the order of their names."""
        for tensor in self._sums().values():
            sum_over_ranks(tensor)
        for held, name, _ in self._statistics():
            held[name].gather()
        everyone = from_all_ranks(
            (self.names, self.unreadable, self.tokens, self.distances, self.positions, self.pixels, self.examples)
        )
        self.names = [name for names, *_ in everyone for name in names]
        self.unreadable = sorted({reason for _, unreadable, *_ in everyone for reason in unreadable})
        tokens = [count for _, _, tokens, *_ in everyone for count in tokens]
        distances = {key: [value for _, _, _, own, *_ in everyone for value in own[key]] for key in self.distances}
        self.positions, self.pixels = max(own[4] for own in everyone), max(own[5] for own in everyone)
        if self.examples:
            self.examples = Examples.merged([examples for *_, examples in everyone])
        if self.tuples:
            self.tuples.pending = from_all_ranks(self.tuples.tuples())
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        self.names = [self.names[i] for i in order]
        self.tokens = array("q", [tokens[i] for i in order])
        self.distances = {key: array("f", [own[i] for i in order]) for key, own in distances.items()}
        return self

    def values(self, protocol: str) -> dict[str, Tensor]:
        """Of each image, by the name of the distance: (n,) float32, in the order of ``names``."""
        prefix = f"{protocol}/"
        return {k.removeprefix(prefix): to_vector(v) for k, v in self.distances.items() if k.startswith(prefix) and v}

    def metrics(self, protocol: str) -> dict[str, float]:
        """All numbers of a protocol by name, after ``gather``."""
        values = {name: own.double().mean().item() for name, own in self.values(protocol).items()}
        view = self.protocols[protocol].view
        for network in self.judges.networks:
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

    def _sums(self) -> dict[str, Tensor]:
        """What only has to be added up, by name, in the same order on all ranks."""
        sums = {"usage": self.usage.hits}
        for name, score in sorted(self.inception_scores.items()):
            sums |= {f"inception_scores/{name}/{part}": tensor for part, tensor in score.tensors().items()}
        return sums

    def _statistics(self) -> Iterator[tuple[dict[str, FeatureStatistics], str, str]]:
        """Of features: what holds them, under which name, and a key; in the same order on all ranks."""
        for side in ("images", "reconstructions"):
            held = getattr(self, side)
            for name in sorted(held):
                yield held, name, f"{side}/{name}/"

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """All that has been kept, as tensors and plain content: what ``restore`` takes."""
        tensors = {f"sum/{name}": tensor.cpu() for name, tensor in self._sums().items()}
        for held, name, key in self._statistics():
            tensors |= {f"{key}{part}": tensor.cpu() for part, tensor in held[name].tensors().items()}
        tensors |= {f"distance/{key}": to_vector(values) for key, values in self.distances.items()}
        tensors["tokens"] = to_vector(self.tokens)
        examples, about_examples = self.examples.state() if self.examples else ({}, {})
        tensors |= examples
        if self.tuples:
            tensors["tuples"] = self.tuples.tuples()
        about = {
            "names": self.names,
            "unreadable": self.unreadable,
            "positions": self.positions,
            "pixels": self.pixels,
            "examples": about_examples,
        }
        return tensors, about

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping) -> None:
        """Go on from what ``state`` of scores made alike has returned."""
        for name, tensor in self._sums().items():
            tensor.copy_(tensors[f"sum/{name}"])
        for held, name, key in self._statistics():
            own = {part.removeprefix(key): tensor for part, tensor in tensors.items() if part.startswith(key)}
            held[name] = FeatureStatistics.restored(own, held[name].device)
        self.distances = {key: array("f", tensors[f"distance/{key}"].tolist()) for key in self.distances}
        self.tokens = array("q", tensors["tokens"].tolist())
        if self.examples:
            self.examples.restore(tensors, about["examples"])
        if self.tuples:
            self.tuples.known = tensors["tuples"]
        self.names, self.unreadable = list(about["names"]), list(about["unreadable"])
        self.positions, self.pixels = about["positions"], about["pixels"]


def to_vector(values: array) -> Tensor:
    """(n,) of the array's own type."""
    return torch.from_numpy(np.array(values))


def reference_name(view: Sequence[str], score: str) -> str:
    """What statistics of images are called: by all that they depend on besides the images and their cut."""
    return "/".join([*view, score])


def too_small(protocol: Protocol, image_size: int) -> dict[str, str]:
    """The distances of a protocol that images of this size do not have, and why."""
    if "ms_ssim" in protocol.distances and image_size < MS_SSIM_SMALLEST:
        return {"ms_ssim": f"its five scales need images of {MS_SSIM_SMALLEST} pixels, not {image_size}"}
    return {}
