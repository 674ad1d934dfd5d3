"""Accumulates per-image metrics and feature statistics of one tokenizer's reconstructions.

One ``Scores`` serves all protocols with the same crop: each image is reconstructed once, and values that protocols
share (8-bit pixels, features, distances) are computed once.
"""

import math
from array import array
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from vistok.evaluation.examples import Examples
from vistok.evaluation.networks import ScoringNetworks, reference_name, score_names
from vistok.evaluation.pairs import Pairs
from vistok.evaluation.protocols import Protocol
from vistok.evaluation.set_metrics import IMAGES, RECONSTRUCTIONS, FeatureStore, Found
from vistok.evaluation.strata import Strata
from vistok.images.pixel_hash import pixel_hash
from vistok.metrics.distances import (
    DISTANCES,
    MS_SSIM_SMALLEST,
    SHARE_GAUSS11_MEANS,
    SSIM_WINDOW,
    gauss11_means,
)
from vistok.metrics.feature_networks import Inception
from vistok.metrics.frechet import FeatureStatistics
from vistok.metrics.inception_score import InceptionScore
from vistok.metrics.reconstruction import block_mean, psnr
from vistok.metrics.states import Accumulator, Reduction, to_vector
from vistok.metrics.usage import CodebookUsage, DistinctTuples, split, usages_of
from vistok.quantizers import Codes, Layout, Quantized
from vistok.tokenizer import Tokenizer

BASELINE = "psnr_block_mean"  # the block-mean baseline, reported beside every PSNR
PLAIN = Protocol()


class Scores(Accumulator):
    """Scores of one tokenizer for one crop of the images.

    Args:
        protocols: Protocols by name; all have the same ``preparation``.
        tokenizer: The tokenizer to score.
        networks: Networks by which images are compared, on ``device``.
        references: Known statistics of the images by ``reference_name``. For these the networks run on reconstructions
            only.
        unavailable: Names of distances that images of this size do not have; see ``too_small``.
        device: Device of the images.
        examples: Collects the images that a report shows; None for crops that it does not show.
        granularities: Number of granularities that a region of the codes can have.
        store: Features of single images on disk; None where no metric needs them.
        all_names: Names of all images, scored or not, for the divisions of the Inception score; None if unknown.
        strata: Parts by which errors are reported too, see ``Strata``.

    Attributes:
        layout: Maps the height and width of an image in pixels to the layout of its codes.
        names: Names of the images.
        hashes: Hash of the pixels of each image, by ``pixel_hash``.
        unreadable: Images that could not be read, with the reason.
        tokens: Number of positions that are tokens, for each image.
        distances: Distances of each image, by protocol/distance.
        positions: Number of positions of an image.
        pixels: Number of pixels of an image.
        images: Feature statistics of the images, by ``reference_name``, for those that the references lack.
        reconstructions: Feature statistics of the reconstructions, by ``reference_name``.
        inception_scores: Inception scores by view and division.
        found: Metrics from the store, after ``gather``.
    """

    names: list[str]
    hashes: list[str]
    unreadable: list[str]
    tokens: array
    distances: dict[str, array]
    positions: int
    pixels: int
    examples: Examples | None
    strata: Strata | None
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
        store: FeatureStore | None = None,
        all_names: Sequence[str] | None = None,
        strata: Collection[str] = (),
    ):
        super().__init__()
        self.protocols, self.networks, self.unavailable = dict(protocols), networks, unavailable
        self.device = device
        self.head, self.factor, self.granularities = tokenizer.quantizer, tokenizer.factor, granularities
        self.layout = lambda height, width: tokenizer.quantizer.layout(*tokenizer.grid(height, width))
        self.references = dict(references or {})
        self.store, self.found = store, Found()
        self.declare("names", [], Reduction.CONCATENATION)
        self.declare("hashes", [], Reduction.CONCATENATION)
        self.declare("unreadable", [], Reduction.UNION)
        # Growing arrays: one small tensor per batch would keep the allocator from releasing freed large ones.
        self.declare("tokens", array("q"), Reduction.CONCATENATION)
        self.declare(
            "distances",
            {
                f"{name}/{networks.reported(distance)}": array("f")
                for name, protocol in self.protocols.items()
                for distance in self._distances_of(protocol)
            },
            Reduction.CONCATENATION,
        )
        self.declare("positions", 0, Reduction.LARGEST)
        self.declare("pixels", 0, Reduction.LARGEST)
        self.declare("examples", examples)
        self.declare("strata", Strata(strata) if strata else None)
        self.declare("usage", CodebookUsage(self.head.codebook_sizes).to(device))
        self.declare("tuples", DistinctTuples(len(self.usage.parts)) if len(self.usage.parts) > 1 else None)
        images, reconstructions = {}, {}
        for view in {protocol.view: None for protocol in self.protocols.values()}:
            for network in networks.feature_networks:
                for score, dim in score_names(network).items():
                    name = reference_name(view, score)
                    reconstructions[name] = FeatureStatistics(dim, device)
                    if name not in self.references:
                        images[name] = FeatureStatistics(dim, device)
        has_inception = any(isinstance(network, Inception) for network in networks.feature_networks)
        inception_scores = {
            inception_score_name(protocol): InceptionScore(protocol.inception_score, all_names, device=device)
            for protocol in self.protocols.values()
            if has_inception and protocol.inception_score
        }
        self.declare("images", images)
        self.declare("reconstructions", reconstructions)
        self.declare("inception_scores", inception_scores)

    def update(
        self,
        names: Sequence[str],
        images: Tensor,
        reconstruction: Tensor,
        emitted: Codes | Quantized,
        compared: Tensor | None = None,
        hashes: Sequence[str] = (),
        labels: Tensor | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            names: Names of the images.
            images: (b, 3, H, W) uint8, at least 11 pixels high and wide: the tokenizer's input.
            reconstruction: The same shape, float in [-1, 1], unclamped.
            emitted: The codes that were decoded to the reconstruction.
            compared: (b, 3, size, size) uint8, the images at the size at which protocols compare them; None if that is
                the size of ``images``.
            hashes: Hash of the pixels of each image as it was decoded, before its crop; by default of the crop itself.
            labels: (b,) classes of the images; None takes the folders in their names.

        Raises:
            ValueError: A reconstruction is not finite, or images are too small.
        """
        broken = ~reconstruction.isfinite().flatten(1).all(1)
        if broken.any():
            which = ", ".join(name for name, bad in zip(names, broken.tolist(), strict=True) if bad)
            raise ValueError(f"the reconstruction has NaN or infinite pixels, of {which}")
        compared = images if compared is None else compared
        if min(compared.shape[-2:]) < SSIM_WINDOW:
            size = "x".join(map(str, compared.shape[-2:]))
            raise ValueError(f"images of {size} pixels are smaller than SSIM's window of {SSIM_WINDOW}")
        preparation = next(iter(self.protocols.values())).preparation
        pairs = Pairs(compared, preparation.resized(reconstruction), preparation.targets(images))
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would change the numbers
            distances = self._compare(pairs)
            self._extract_features(names, pairs)
            if self.examples:
                self.examples.update(names, distances, *pairs.levels(PLAIN)[::-1], emitted)
            if self.strata:
                self.strata.update(names, *pairs.levels(PLAIN), labels)
        codes, keep = emitted.codes, emitted.keep
        self.usage.update(codes, keep)
        if self.tuples:
            self.tuples.update(split(codes, self.usage.parts), keep)
        self.positions, self.pixels = codes[0, 0].numel(), images[0, 0].numel()
        kept = torch.full((len(codes),), self.positions) if keep is None else keep.flatten(1).sum(1).cpu()
        self.tokens.extend(kept.tolist())
        self.names += names
        self.hashes += hashes or map(pixel_hash, images)

    def _compare(self, pairs: Pairs) -> dict[str, Tensor]:
        """Adds the distances of each image; returns them by name, of the first protocol that has a distance."""
        first: dict[str, Tensor] = {}
        for name, protocol in self.protocols.items():
            for distance in self._distances_of(protocol):
                values = self._distance(distance, protocol, pairs)
                reported = self.networks.reported(distance)
                self.distances[f"{name}/{reported}"].extend(values.float().tolist())
                first.setdefault(reported, values.float())
        return first

    def _distance(self, distance: str, protocol: Protocol, pairs: Pairs) -> Tensor:
        """One distance of each image, (b,)."""
        if distance in self.networks.lpips:
            lpips = self.networks.lpips[distance]
            key = (distance, protocol.lpips, protocol.rounding)
            return pairs.once(key, lambda: lpips.distance(*pairs.lpips_inputs(protocol)).flatten())
        if distance == BASELINE:
            images = pairs.levels(protocol)[1]
            return psnr(block_mean(images, self.factor), images)
        key = (distance, protocol.pixels, protocol.rounding)
        sides = pairs.compared(protocol)
        if distance in SHARE_GAUSS11_MEANS:
            sides = (*sides, pairs.once(("gauss11_means", *key[1:]), lambda: gauss11_means(*sides)))
        return pairs.once(key, lambda: DISTANCES[distance](*sides))

    def _extract_features(self, names: Sequence[str], pairs: Pairs) -> None:
        stored = {}
        for protocol in {protocol.view: protocol for protocol in self.protocols.values()}.values():
            for network in self.networks.feature_networks:
                reconstruction, images = pairs.network_inputs(protocol, network)
                own = next(iter(score_names(network)))
                for statistics, where, side in (
                    (self.reconstructions, RECONSTRUCTIONS, reconstruction),
                    (self.images, IMAGES, images),
                ):
                    if reference_name(protocol.view, own) not in statistics:
                        continue
                    if isinstance(network, Inception):
                        inception = network.features(side, protocol.frechet)
                        features = (inception.pool, inception.spatial)
                        if statistics is self.reconstructions:
                            self._update_inception_scores(protocol.view, names, inception.logits)
                    else:
                        features = (network(side),)
                    for score, values in zip(score_names(network), features, strict=True):
                        name = reference_name(protocol.view, score)
                        statistics[name].update(values)
                        stored[f"{where}/{name}"] = values
            if self.store and (clip := self.networks.clip):
                for where, side in zip((RECONSTRUCTIONS, IMAGES), pairs.network_inputs(protocol, clip), strict=True):
                    column = f"{where}/{reference_name(protocol.view, clip.name)}"
                    if column in self.store.file.columns:
                        stored[column] = clip(side)
        if self.store:
            self.store.file.append(stored)

    def _update_inception_scores(self, view: Sequence[str], names: Sequence[str], logits: Tensor) -> None:
        for name, score in self.inception_scores.items():
            if name.startswith(f"{'/'.join(view)}/"):
                score.update(names, logits)

    def _distances_of(self, protocol: Protocol) -> list[str]:
        """Names of the distances of a protocol that are available."""
        available = [name for name in protocol.distances if DISTANCES[name] or name in self.networks.lpips]
        available = [name for name in available if name not in self.unavailable]
        return available + [BASELINE] * ("psnr" in available and protocol.size is None)

    def gather(self) -> "Scores":
        """Merges the scores of all ranks, on every rank, with images sorted by name."""
        own = self.names
        super().gather()
        if self.store:
            statistics = self.references | self.images, self.reconstructions
            self.found = self.store.compute(own, *statistics, self.device)
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        self.names, self.hashes = ([own[i] for i in order] for own in (self.names, self.hashes))
        self.tokens, *distances = (
            array(own.typecode, [own[i] for i in order]) for own in (self.tokens, *self.distances.values())
        )
        self.distances = dict(zip(self.distances, distances, strict=True))
        return self

    def values(self, protocol: str) -> dict[str, Tensor]:
        """Values of each image by the name of the distance: (n,) float32, in the order of ``names``."""
        prefix = f"{protocol}/"
        return {k.removeprefix(prefix): to_vector(v) for k, v in self.distances.items() if k.startswith(prefix) and v}

    def leave_one_out(self, protocol: str) -> dict[str, Tensor]:
        """Fréchet distances of a protocol without the images of one of ten groups each, by the name of the score.

        Returns:
            (10,) float64 by names of ``metrics``, after ``gather``; empty where there are no intervals.
        """
        prefix = reference_name(self.protocols[protocol].view, "")
        return {k.removeprefix(prefix): v for k, v in self.found.leave_one_out.items() if k.startswith(prefix)}

    def metrics(self, protocol: str) -> dict[str, float]:
        """All numbers of a protocol by name. Call it after ``gather``."""
        values = {name: own.double().mean().item() for name, own in self.values(protocol).items()}
        view = self.protocols[protocol].view
        for network in self.networks.feature_networks:
            for score in score_names(network):
                name = reference_name(view, score)
                reference = self.references.get(name) or self.images[name]
                values[score] = reference.distance(self.reconstructions[name]).item()
            if isinstance(network, Inception) and self.protocols[protocol].inception_score:
                suffix = "" if network.official else f"_{network.name}"
                score_of = self.inception_scores[inception_score_name(self.protocols[protocol])]
                values[f"inception_score{suffix}"] = score_of.compute()
        prefix = reference_name(view, "")
        values |= {k.removeprefix(prefix): v for k, v in self.found.values.items() if k.startswith(prefix)}
        return values | self.code_metrics()

    def code_metrics(self) -> dict[str, float]:
        """Numbers of the codes alone, the same under every protocol."""
        tokens, n = to_vector(self.tokens).double(), len(self.names)
        counts = self.usage.counts
        use = {name: value.item() for name, value in usages_of(counts).items()}
        k = len(self.head.codebook_sizes)
        fixed = sum(map(math.log2, self.head.codebook_sizes))
        entropy = sum(use[name] for name in use if name.startswith("entropy_bits"))
        granularity_bits = Layout(((1, self.positions),), k, self.granularities).granularity_bits
        mean = use.pop("tokens") / n
        bits, by_entropy = mean * fixed + granularity_bits, mean * entropy + granularity_bits
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


def inception_score_name(protocol: Protocol) -> str:
    """Key of an Inception score: everything it depends on besides the reconstructions."""
    return "/".join([*protocol.view, str(protocol.inception_score)])


def too_small(protocol: Protocol, image_size: int) -> dict[str, str]:
    """Distances of a protocol that images of this size do not have, with the reason."""
    image_size = protocol.size or image_size
    if "ms_ssim" in protocol.distances and image_size < MS_SSIM_SMALLEST:
        return {"ms_ssim": f"its five scales need images of {MS_SSIM_SMALLEST} pixels, not {image_size}"}
    return {}
