"""Accumulates per-image metrics and feature statistics of one tokenizer's reconstructions, or of stored ones.

One ``Scores`` serves all protocols with the same crop: each image is reconstructed once, and values that protocols
share (8-bit pixels, features, distances) are computed once.
"""

from array import array
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from vistok.evaluation.code_metrics import code_metrics
from vistok.evaluation.examples import Examples
from vistok.evaluation.networks import ScoringNetworks, reference_name, score_names
from vistok.evaluation.pairs import Pairs
from vistok.evaluation.preparation import Preparation
from vistok.evaluation.protocols import Protocol
from vistok.evaluation.set_metrics import IMAGES, RECONSTRUCTIONS, FeatureStore, Found
from vistok.evaluation.size_limits import OF_COLOURS, defined_at, not_of_all
from vistok.evaluation.strata import Strata
from vistok.images.padding import padded
from vistok.images.pixel_hash import pixel_hash
from vistok.images.rgb_view import RGBView
from vistok.metrics.distances import DISTANCES, SHARE_GAUSS11_MEANS, gauss11_means
from vistok.metrics.feature_networks import Inception
from vistok.metrics.frechet import FeatureStatistics
from vistok.metrics.inception_score import InceptionScore
from vistok.metrics.reconstruction import bicubic_baseline, psnr
from vistok.metrics.states import Accumulator, Reduction, to_vector
from vistok.metrics.usage import CodebookUsage, DistinctTuples, split
from vistok.metrics.usage_by_scale import UsageByScale
from vistok.quantizers import Codes, Layout, Quantized
from vistok.tokenizer import Tokenizer

BASELINE = "psnr_bicubic"  # the bicubic baseline, reported beside every PSNR
PLAIN = Protocol()
PER_IMAGE = ("tokens", "positions", "heights", "widths")  # arrays of whole numbers, one for each image


class Scores(Accumulator):
    """Scores of one tokenizer for one crop of the images.

    Args:
        protocols: Protocols by name; all have the same ``preparation``.
        tokenizer: The tokenizer to score; None for reconstructions without codes.
        networks: Networks by which images are compared, on ``device``.
        references: Known statistics of the images by ``reference_name``. For these the networks run on reconstructions
            only.
        unavailable: Names of distances that images of this size do not have; see ``size_limits``.
        device: Device of the images.
        examples: Collects the images that a report shows; None for crops that it does not show.
        granularities: Number of granularities that a region of the codes can have.
        store: Features of single images on disk; None where no metric needs them.
        all_names: Names of all images, scored or not, for the divisions of the Inception score; None if unknown.
        strata: Parts by which errors are reported too, see ``Strata``.
        view: Channels that networks look at.

    Attributes:
        layout: Maps the height and width of an image in pixels to the layout of its codes; None without a tokenizer.
        names: Names of the images.
        hashes: Hash of the pixels of each image, by ``pixel_hash``.
        unreadable: Images that could not be read, with the reason.
        passed_over: Number of members of tars beside the images, which were not read.
        tokens: Number of positions that are tokens, for each image; empty without codes, as ``positions``.
        positions: Number of positions of each image.
        heights: Height of each image in pixels.
        widths: Width of each image in pixels.
        distances: Distances of each image, by protocol/distance; NaN for an image that is too small for it.
        grids: Grid [h, w] of each scale of a multi-scale head, of the last image; empty for other heads.
        images: Feature statistics of the images, by ``reference_name``, for those that the references lack.
        reconstructions: Feature statistics of the reconstructions, by ``reference_name``.
        inception_scores: Inception scores by view and division.
        found: Metrics from the store, after ``gather``.
    """

    names: list[str]
    hashes: list[str]
    unreadable: list[str]
    passed_over: Tensor
    tokens: array
    positions: array
    heights: array
    widths: array
    distances: dict[str, array]
    examples: Examples | None
    strata: Strata | None
    usage: CodebookUsage | None
    by_scale: UsageByScale | None
    grids: list[list[int]]
    tuples: DistinctTuples | None
    images: dict[str, FeatureStatistics]
    reconstructions: dict[str, FeatureStatistics]
    inception_scores: dict[str, InceptionScore]

    def __init__(
        self,
        protocols: Mapping[str, Protocol],
        tokenizer: Tokenizer | None,
        networks: ScoringNetworks = ScoringNetworks(),
        references: Mapping[str, FeatureStatistics] | None = None,
        unavailable: Collection[str] = (),
        device: torch.device | str = "cpu",
        examples: Examples | None = None,
        granularities: int = 1,
        store: FeatureStore | None = None,
        all_names: Sequence[str] | None = None,
        strata: Collection[str] = (),
        view: RGBView = RGBView(),
    ):
        super().__init__()
        self.protocols, self.networks, self.unavailable = dict(protocols), networks, unavailable
        self.device, self.view = device, view
        self.factor, self.granularities = tokenizer.factor if tokenizer else None, granularities
        self.num_tokens = tokenizer.num_tokens if tokenizer else None
        self.layout = partial(layout_of, tokenizer) if tokenizer else None
        self.references = dict(references or {})
        self.store, self.found = store, Found()
        self.declare("names", [], Reduction.CONCATENATION)
        self.declare("hashes", [], Reduction.CONCATENATION)
        self.declare("unreadable", [], Reduction.UNION)
        self.declare("passed_over", torch.zeros((), dtype=torch.int64), Reduction.SUM)
        # Growing arrays: one small tensor per batch would keep the allocator from releasing freed large ones.
        for name in PER_IMAGE:
            self.declare(name, array("q"), Reduction.CONCATENATION)
        self.declare(
            "distances",
            {
                f"{name}/{networks.reported(distance)}": array("f")
                for name, protocol in self.protocols.items()
                for distance in self._distances_of(protocol)
            },
            Reduction.CONCATENATION,
        )
        self.declare("examples", examples)
        self.declare("strata", Strata(strata) if strata else None)
        usage = CodebookUsage(tokenizer.quantizer.codebook_sizes).to(device) if tokenizer else None
        self.declare("usage", usage)
        self.declare("by_scale", UsageByScale(tokenizer.quantizer.codebook_sizes).to(device) if tokenizer else None)
        self.declare("grids", [], Reduction.LARGEST)
        self.declare("tuples", DistinctTuples(len(usage.parts)) if usage and len(usage.parts) > 1 else None)
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
        emitted: Codes | Quantized | None = None,
        compared: Tensor | None = None,
        hashes: Sequence[str] = (),
        labels: Tensor | None = None,
        levels: Tensor | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            names: Names of the images.
            images: (b, c, H, W) uint8: the tokenizer's input.
            reconstruction: The same shape, float in [-1, 1], unclamped.
            emitted: The codes that were decoded to the reconstruction; None without a tokenizer.
            compared: (b, 3, size, size) uint8, the images at the size at which protocols compare them; None if that is
                the size of ``images``.
            hashes: Hash of the pixels of each image as it was decoded, before its crop; by default of the crop itself.
            labels: (b,) classes of the images; None takes the folders in their names.
            levels: (b, 3, H, W) uint8, the reconstruction if it is of 8 bits already; None if it is not.

        Raises:
            ValueError: A reconstruction is not finite.
        """
        broken = ~reconstruction.isfinite().flatten(1).all(1)
        if broken.any():
            which = ", ".join(name for name, bad in zip(names, broken.tolist(), strict=True) if bad)
            raise ValueError(f"the reconstruction has NaN or infinite pixels, of {which}")
        compared = images if compared is None else compared
        resized = self.preparation.resized(reconstruction)
        levels = levels if resized is reconstruction else None
        pairs = Pairs(compared, resized, self.preparation.targets(images), levels, self.view)
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would change the numbers
            distances = self._compare(pairs)
            self._extract_features(names, pairs)
            if self.examples:
                pictures = map(self.view.picture, pairs.levels(PLAIN)[::-1])
                self.examples.update(names, distances, *pictures, emitted)
            if self.strata:
                self.strata.update(names, *pairs.levels(PLAIN), labels)
        if emitted is not None:
            self._count(emitted.codes, emitted.keep, images)
        for name, side in (("heights", images.shape[-2]), ("widths", images.shape[-1])):
            getattr(self, name).extend([side] * len(images))
        self.names += names
        self.hashes += hashes or map(pixel_hash, images)

    def _count(self, codes: Tensor, keep: Tensor | None, images: Tensor) -> None:
        self.usage.update(codes, keep)
        if codes.shape[2] == 1 < codes.shape[3]:  # one dimension, or several scales
            self._count_scales(codes, images)
        if self.tuples:
            self.tuples.update(split(codes, self.usage.parts), keep)
        positions = codes[0, 0].numel()
        kept = torch.full((len(codes),), positions) if keep is None else keep.flatten(1).sum(1).cpu()
        self.tokens.extend(kept.tolist())
        self.positions.extend([positions] * len(codes))

    def _count_scales(self, codes: Tensor, images: Tensor) -> None:
        """Counts codes (b, k, 1, n) of a head with several scales by scale."""
        try:
            layout = self.layout(*images.shape[-2:])
        except ValueError:  # resized images that the encoder itself would refuse
            return
        if len(layout.grids) > 1:
            self.grids = [list(grid) for grid in layout.grids]
            self.by_scale.update(layout.split(codes))

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
        height, width = pairs.images.shape[-2:]
        if not defined_at(distance, height, width):
            return torch.full((len(pairs.images),), torch.nan)
        if distance in self.networks.lpips:
            lpips = self.networks.lpips[distance]
            key = (distance, protocol.lpips, protocol.rounding)
            return pairs.once(key, lambda: lpips.distance(*pairs.lpips_inputs(protocol)).flatten())
        if distance == BASELINE:
            images = pairs.levels(protocol)[1]
            even = padded(images, (-height % self.factor + height, -width % self.factor + width))
            return psnr(bicubic_baseline(even, self.factor, self.num_tokens)[..., :height, :width], images)
        key = (distance, protocol.pixels, protocol.rounding)
        sides = pairs.compared(protocol)
        if distance in OF_COLOURS:
            sides = tuple(map(self.view, sides))
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
        has_baseline = "psnr" in available and protocol.size is None and self.factor is not None
        return available + [BASELINE] * has_baseline

    def gather(self) -> "Scores":
        """Merges the scores of all ranks, on every rank, with images sorted by name."""
        own = self.names
        super().gather()
        if self.store:
            statistics = self.references | self.images, self.reconstructions
            self.found = self.store.compute(own, *statistics, self.device)
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        self.names, self.hashes = ([own[i] for i in order] for own in (self.names, self.hashes))
        for name in PER_IMAGE:
            setattr(self, name, in_order(getattr(self, name), order))
        self.distances = {name: in_order(own, order) for name, own in self.distances.items()}
        return self

    def values(self, protocol: str) -> dict[str, Tensor]:
        """Values of each image by the name of the distance: (n,) float32, in the order of ``names``.

        An image that is too small for a distance has NaN; a distance that no image has is left out.
        """
        prefix = f"{protocol}/"
        vectors = {k.removeprefix(prefix): to_vector(v) for k, v in self.distances.items() if k.startswith(prefix)}
        return {name: own for name, own in vectors.items() if not own.isnan().all()}

    def partial(self, protocol: str) -> dict[str, str]:
        """Distances of a protocol that some images do not have, with the number of those that do and the reason."""
        counts = []
        for distance in self._distances_of(self.protocols[protocol]):
            name = self.networks.reported(distance)
            own = to_vector(self.distances[f"{protocol}/{name}"])
            counts.append((name, distance, int((~own.isnan()).sum()), len(own)))
        return not_of_all(counts)

    @property
    def preparation(self) -> Preparation:
        return next(iter(self.protocols.values())).preparation

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image in pixels, in the order of ``names``."""
        return list(zip(self.heights, self.widths, strict=True))

    def leave_one_out(self, protocol: str) -> dict[str, Tensor]:
        """Fréchet distances of a protocol without the images of one of ten groups each, by the name of the score.

        Returns:
            (10,) float64 by names of ``metrics``, after ``gather``; empty where there are no intervals.
        """
        prefix = reference_name(self.protocols[protocol].view, "")
        return {k.removeprefix(prefix): v for k, v in self.found.leave_one_out.items() if k.startswith(prefix)}

    def metrics(self, protocol: str) -> dict[str, float]:
        """All numbers of a protocol by name. Call it after ``gather``."""
        values = {name: own.double().nanmean().item() for name, own in self.values(protocol).items()}
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
        """Numbers of the codes alone, the same under every protocol, and the number of images."""
        images = {"images": float(len(self.names))}
        if self.usage is None:
            return images
        tokens, positions, heights, widths = (to_vector(getattr(self, name)) for name in PER_IMAGE)
        return code_metrics(self.usage, self.tuples, tokens, positions, heights * widths, self.granularities) | images


def layout_of(tokenizer: Tokenizer, height: int, width: int) -> Layout:
    """Layout of the codes of an image of any size, padded if the tokenizer does not accept it."""
    return tokenizer.quantizer.layout(*tokenizer.grid(*tokenizer.padded_size(height, width)))


def inception_score_name(protocol: Protocol) -> str:
    """Key of an Inception score: everything it depends on besides the reconstructions."""
    return "/".join([*protocol.view, str(protocol.inception_score)])


def in_order(values: array, order: Sequence[int]) -> array:
    """The array's numbers in another order; an empty array stays empty."""
    return array(values.typecode, [values[i] for i in order]) if values else values
