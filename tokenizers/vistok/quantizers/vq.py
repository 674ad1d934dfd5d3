"""Vector quantization: one learned codebook (VQ-VAE, arXiv:1711.00937; VQGAN, arXiv:2012.09841)."""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistok.quantizers import base, code_statistics
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table
from vistok.quantizers.estimators import CodewordGradient, DiVeQ, Estimator, StraightThrough

COUNT_DECAY = 0.99  # decay of the moving counts of a codebook that is learned by gradient


class VectorQuantizer(Quantizer):
    """Nearest codeword by L2, or by cosine on unit vectors (ViT-VQGAN, arXiv:2110.04627, section 3.2).

    The codebook is learned by gradient, or as moving averages of the vectors assigned to each codeword. Both kinds can
    start from k-means and restart dead codewords; these happen in ``update``.

    Args:
        codebook_size: Number of codewords n, at least 2.
        dim: Codeword dimension d, the channels of the latent.
        cosine: True normalises latent and codewords to unit length.
        raw_gradient: With ``cosine``, True passes the decoder's gradient unchanged to the latent
            (enhancing-transformers' ViT-VQGAN). False passes it to the unit latent, so that the part that would only
            change the latent's length is lost (LlamaGen).
        ema_decay: Decay of the moving averages that the codebook is learned as (VQ-VAE, appendix A.1), in [0, 1); there
            is then no ``codebook`` loss. None learns it by gradient.
        restart: A codeword is dead when its moving count is below this number of ``restart_unit``; it then moves onto a
            random vector of the batch, and its count becomes one unit. None never restarts codewords.
        restart_unit: ``even``, the count of each codeword under uniform usage; or ``vector``, one vector of an update,
            as released by RQ-VAE (arXiv:2203.01941) and DQ-VAE, which depends on the batch size.
        kmeans_updates: Number of updates of sequential k-means at the start: the codebook starts as vectors of the
            first batch, and each codeword is the mean of all vectors assigned to it so far. 0 skips k-means.
        weighted_counts: True applies a context's weights to the statistics as well as to the losses. False counts every
            position once, as DQ-VAE's code does.
        entropy_temperature: Temperature of the ``entropy`` loss; None has no such loss. A context whose ``unused``
            contains the term skips it too.
        estimator: Gradient estimator of the codeword choice.
        unit_table: With ``cosine``, True declares that codewords already have unit length, as in a head for inference,
            so that they are not normalised again.
    """

    stored_names = {"codewords": "table"}

    codewords: Tensor  # (n, d) before normalisation
    ema_counts: Tensor  # (n,)
    ema_sums: Tensor  # (n, d)
    updates: Tensor  # updates of k-means so far

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        cosine: bool = False,
        raw_gradient: bool = False,
        ema_decay: float | None = None,
        restart: float | None = None,
        restart_unit: Literal["even", "vector"] = "even",
        kmeans_updates: int = 0,
        weighted_counts: bool = True,
        entropy_temperature: float | None = None,
        estimator: Estimator = StraightThrough(),
        unit_table: bool = False,
    ):
        super().__init__()
        base.check_size(codebook_size)
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {ema_decay}")
        if restart_unit not in ("even", "vector"):
            raise ValueError(f"restart_unit must be even or vector, not {restart_unit!r}")
        if ema_decay is not None and isinstance(estimator, CodewordGradient | DiVeQ):
            name = type(estimator).__name__
            raise ValueError(f"{name} learns the codebook by gradient: it cannot go with ema_decay={ema_decay}")
        self.codebook_size, self.dim, self.codebook_sizes = codebook_size, dim, (codebook_size,)
        self.cosine, self.raw_gradient, self.estimator, self.unit_table = cosine, raw_gradient, estimator, unit_table
        self.entropy_temperature = entropy_temperature
        self.ema_decay, self.restart, self.restart_unit = ema_decay, restart, restart_unit
        self.kmeans_updates, self.weighted_counts = kmeans_updates, weighted_counts
        self.loss_names = ("commitment",)
        self.loss_names += ("codebook",) if ema_decay is None else ()
        self.loss_names += ("entropy",) if entropy_temperature is not None else ()

        table = torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        if cosine:
            table = F.normalize(table)
        if ema_decay is None:
            self.codewords = nn.Parameter(table)
        else:
            self.register_buffer("codewords", table)
        self.averages_vectors = ema_decay is not None or kmeans_updates > 0
        if self.averages_vectors or restart is not None:
            from_data = restart is not None or kmeans_updates > 0  # then all codewords start as dead
            self.register_buffer("ema_counts", torch.full((codebook_size,), 0.0 if from_data else 1.0))
        if self.averages_vectors:
            self.register_buffer("ema_sums", table.clone())
        if kmeans_updates:
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.even: Tensor | float = 1.0  # count of each codeword in the last update under uniform usage
        self.forwards = 0 if ema_decay is not None else None

    @base.in_float32
    def codebook(self) -> Tensor:  # (n, d)
        codewords = self.codewords.float()
        return F.normalize(codewords) if self.cosine and not self.unit_table else codewords

    def compared(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1) if self.cosine else z

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        raw = z.float()
        z = self.compared(raw)
        codebook, weight = self.codebook(), context.weight
        estimator = self.estimator if self.training else StraightThrough()
        quantized = base.quantize(z, codebook, estimator, weight, source=raw if self.raw_gradient else z)
        losses = {name: quantized.losses[name] for name in self.loss_names if name != "entropy"}
        if self.entropy_temperature is not None and "entropy" not in context.unused:
            losses["entropy"] = code_statistics.entropy(z, codebook, self.entropy_temperature, weight)
        return quantized._replace(losses=losses, stats=self._stats(z, quantized.codes, weight))

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        return Codes(base.nearest(self.compared(z.float()), self.codebook()))

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        return base.lookup(codes, self.codebook())

    @torch.no_grad()
    def _stats(self, z: Tensor, codes: Tensor, weight: Tensor | None) -> dict[str, Tensor] | None:
        learns = self.averages_vectors or self.restart is not None
        if not learns or not self.training:
            return None
        base.warn_if_never_updated(self)
        vectors = rearrange(z, "b d h w -> (b h w) d")
        weight = weight if self.weighted_counts else None
        stats = {"counts": code_statistics.count(codes, self.codebook_size, weight)}
        if self.averages_vectors:
            weighted = vectors if weight is None else vectors * weight.reshape(-1, 1)
            stats["sums"] = torch.zeros_like(self.ema_sums).index_add_(0, codes.flatten(), weighted)
        if self.restart is not None or self.kmeans_updates:
            stats["samples"] = code_statistics.sample(vectors, self.codebook_size)
        return stats

    @torch.no_grad()
    def update(self, stats: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Updates moving averages of counts and sums; counts are Laplace-smoothed (arXiv:1711.00937, Eq. 6-8)."""
        self.forwards = None
        if not stats:
            return {}
        share = 1 - (COUNT_DECAY if self.ema_decay is None else self.ema_decay)
        starting = None
        if self.kmeans_updates:
            starting = self.updates < self.kmeans_updates
            share = torch.where(starting, 1 / (self.updates + 1), share)  # 1, 1/2, 1/3: the running mean
            self.updates += 1
        self.ema_counts.lerp_(stats["counts"], share)
        self.even = stats["counts"].mean()
        if self.averages_vectors:
            self.ema_sums.lerp_(stats["sums"], share)
        dead = self._restart(stats.get("samples"), starting)
        if self.averages_vectors:
            mean = self.ema_sums / smoothed(self.ema_counts)[:, None]
        if self.ema_decay is not None:
            self.codewords.copy_(mean)
            return {}
        moved = dead
        if starting is not None:
            self.codewords.copy_(torch.where(starting, mean, self.codewords))
            moved = dead | starting
        return {"codewords": moved}

    def _restart(self, samples: Tensor | None, starting: Tensor | None) -> Tensor:
        """Moves dead codewords onto samples (n, d) of all ranks, if given; returns the dead ones, (n,) bool."""
        unit = self.ema_counts.mean() if self.restart_unit == "even" else 1.0
        dead = self.ema_counts < (self.restart or 0.0) * unit
        if starting is not None:
            dead = dead | (starting & (self.ema_counts == 0))
        if samples is not None:
            self._put(dead, code_statistics.gathered(samples, dead), unit)
        return dead

    def _put(self, rows: Tensor, vectors: Tensor, count: Tensor | float) -> None:
        """Sets codewords ``rows`` (n,) bool to rows of ``vectors`` (n, d), together with their moving averages."""
        rows_of_vectors = rows[:, None]
        self.codewords.copy_(torch.where(rows_of_vectors, vectors, self.codewords))
        if self.averages_vectors:
            self.ema_sums.copy_(torch.where(rows_of_vectors, count * vectors, self.ema_sums))
        if self.averages_vectors or self.restart is not None:
            counts = torch.where(rows, cast(Tensor, count), self.ema_counts)  # torch also accepts a number
            self.ema_counts.copy_(counts)

    @torch.no_grad()
    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        counts = self.averages_vectors or self.restart is not None
        self._put(rows, F.normalize(vectors) if self.cosine else vectors, self.even if counts else 1.0)
        return {"codewords": rows}

    def table(self, i: int) -> Table:
        codebook = self.codebook().detach()
        return Table(codebook, "cosine" if self.cosine else "l2", codebook)

    def with_table(self, i: int, table: Table) -> "VectorQuantizer":
        if table.metric == "dot" or table.bias is not None or not torch.equal(table.search, table.values):
            raise ValueError("a VectorQuantizer decodes the codewords that it searches, by l2 or cosine")
        return plain(table.search, cosine=table.metric == "cosine")

    def for_inference(self) -> "VectorQuantizer":
        return plain(self.codebook(), self.cosine)

    def advice(self) -> list[str]:
        ideas = []
        if self.restart is None:
            ideas.append("restart=0.1 in the quantizer, which keeps moving dead codewords onto latents")
        if not self.kmeans_updates:
            ideas.append("kmeans_updates=20 in the quantizer, a start from the data")
        if self.ema_decay is None:
            ideas.append("quantizer=vq_ema, a codebook of moving averages")
        if not self.cosine:
            ideas.append("quantizer=vq_cosine with model.latent_dim=8, or another low one")
        ideas.append("quantizer=simvq or quantizer=vqbridge, where all codewords move together")
        return ideas + super().advice()


@torch.no_grad()
def plain(codebook: Tensor, cosine: bool = False) -> VectorQuantizer:
    """Head for inference with fixed codewords (n, d).

    Args:
        codebook: The codewords; of unit length for a head that compares by cosine.
        cosine: True compares codewords with the latent at unit length. By L2 alone a latent near zero would often get
            another code than by cosine, because all unit codewords are then at nearly the same distance.
    """
    size, dim = codebook.shape
    with torch.random.fork_rng(devices=[]):  # validation must not change the random numbers of training
        head = VectorQuantizer(size, dim, cosine=cosine, unit_table=cosine).to(codebook.device).eval()
    head.codewords.requires_grad_(False).copy_(codebook)
    return head


def smoothed(counts: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Counts (n,) with Laplace smoothing: none is zero, and their sum is unchanged."""
    total = counts.sum()
    return (counts + epsilon) / (total + len(counts) * epsilon) * total
