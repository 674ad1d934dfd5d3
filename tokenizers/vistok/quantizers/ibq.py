"""IBQ: inner products with all codewords, which all get gradients (index backpropagation, arXiv:2412.02692)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from vistok.kernels import propagated, propagated_and_assigned
from vistok.quantizers import base, code_statistics
from vistok.quantizers.base import Codes, Context, Layout, Quantized, Quantizer, Table
from vistok.quantizers.estimators import with_gradient_of


class IBQ(Quantizer):
    """Chooses the codeword of the largest inner product, with the gradient of a softmax over all of them.

    The value is ``c_k`` with ``k = argmax z·c``; the gradient is that of ``softmax(z·c) @ codebook``, and of the chosen
    row itself. No n × k matrix is stored. Three terms pull latents and codewords together, as in the authors' code:
    ``propagation`` is the squared error between that value and the latent, with gradients to everything;
    ``commitment`` moves the latent alone and ``codebook`` the chosen rows alone.

    Inner products grow with the lengths of latents and codewords, where the softmax saturates and most codewords get
    no gradient: a low ``dim`` (SEED-Voken, issue 59) and the ``entropy`` term help.

    Args:
        codebook_size: Number of codewords n, at least 2.
        dim: Codeword dimension d, the channels of the latent.
        entropy_temperature: Temperature of the ``entropy`` loss, 0.01 in the authors' code; None has no such loss.
    """

    stored_names = {"codewords": "table"}

    def __init__(self, codebook_size: int, dim: int, entropy_temperature: float | None = 0.01):
        super().__init__()
        base.check_size(codebook_size)
        if entropy_temperature is not None and entropy_temperature <= 0:
            raise ValueError(f"entropy_temperature must be above 0, not {entropy_temperature}")
        self.codebook_size, self.dim, self.codebook_sizes = codebook_size, dim, (codebook_size,)
        self.entropy_temperature = entropy_temperature
        entropy = () if entropy_temperature is None else ("entropy",)
        self.loss_names = ("propagation", "commitment", "codebook", *entropy)
        self.codewords = nn.Parameter(torch.randn(codebook_size, dim))

    def codebook(self) -> Tensor:
        return self.codewords.float()

    @base.in_float32
    def forward(self, z: Tensor, context: Context = Context()) -> Quantized:
        z, codebook, entropy = z.float(), self.codebook(), {}
        temperature = None if "entropy" in context.unused else self.entropy_temperature
        if self.training:
            vectors = rearrange(z, "b d h w -> (b h w) d")
            if temperature is None:
                values, codes = propagated(vectors, codebook)
            else:
                weight = torch.ones_like(z[:, 0]) if context.weight is None else context.weight.to(z)
                results = propagated_and_assigned(vectors, codebook, weight.flatten(), 1 / temperature)
                values, codes, entropies, assigned = results
                entropy["entropy"] = code_statistics.entropy_of(entropies, assigned, weight.flatten())
            values = rearrange(values, "(b h w) d -> b d h w", b=len(z), h=z.shape[2])
            codes = rearrange(codes, "(b h w) -> b 1 h w", b=len(z), h=z.shape[2])
        else:
            codes = self.encode(z).codes
            values = with_gradient_of(base.lookup(codes, codebook), z)
            if temperature is not None:
                entropy["entropy"] = code_statistics.entropy(z, codebook, temperature, context.weight, products=True)
        chosen = base.lookup(codes, codebook)
        errors = {
            "propagation": base.squared_error(values, z, context.weight),
            "commitment": base.squared_error(z, chosen.detach(), context.weight),
            "codebook": base.squared_error(chosen, z.detach(), context.weight),
        }
        return Quantized(values, codes, errors | entropy, codewords=chosen)

    @base.in_float32
    def encode(self, z: Tensor, context: Context = Context()) -> Codes:
        return Codes(base.largest(z.float(), self.table(0)))

    def lookup(self, codes: Tensor, layout: Layout | None = None, keep: Tensor | None = None) -> Tensor:
        codes = base.check_codes(codes, self.codebook_sizes)
        return base.lookup(codes, self.codebook())

    def table(self, i: int) -> Table:
        codebook = self.codebook().detach()
        return Table(codebook, "dot", codebook)

    @torch.no_grad()
    def with_table(self, i: int, table: Table) -> "IBQ":
        if table.metric != "dot" or table.bias is not None or not torch.equal(table.search, table.values):
            raise ValueError("an IBQ head decodes the codewords that it searches, by inner products")
        with torch.random.fork_rng(devices=[]):
            head = IBQ(len(table.search), self.dim, self.entropy_temperature).to(table.search.device).eval()
        head.codewords.requires_grad_(False).copy_(table.search)
        return head

    @torch.no_grad()
    def revive(self, i: int, rows: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        self.codewords.copy_(torch.where(rows[:, None], vectors, self.codewords))
        return {"codewords": rows}

    def advice(self) -> list[str]:
        return ["a lower model.latent_dim, which keeps inner products small", *super().advice()]
