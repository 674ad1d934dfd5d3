"""A small transformer that predicts all codes of a scale at once from the scales before it (VAR, arXiv:2404.02905).

The blocks are those of ``NextIdModel``, so that both differ only in what they predict from what. The input of a scale
is the latent after the scale before, averaged over the cells of its grid, which the tokenizer's head computes; that of
the first one is the class. A position attends to those of its own scale and of the scales before. The codes of a
position (several codebooks, or groups of bits of a large one) are predicted side by side, as if they did not depend on
each other.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.evaluation.learnability.autoregressive import CausalBlock, drawn
from vistok.evaluation.learnability.id_sequences import GROUP_BITS, LARGEST_CODEBOOK
from vistok.metrics.usage import parts_of, split
from vistok.quantizers import Quantizer
from vistok.tokens.header import Header


class ScaleBatch(NamedTuple):
    """Codes of several images with the inputs that predict them."""

    ids: Tensor  # (b, n, p) int64, p codes of each of the n positions of all scales
    inputs: Tensor  # (b, n - m, d), one for each position but the m of the first scale

    def to(self, device: torch.device | str) -> "ScaleBatch":
        return ScaleBatch(self.ids.to(device), self.inputs.to(device))


class ScaleSpace:
    """The scales of an image's codes, and the head that makes inputs of them.

    Args:
        header: Header of tokens with several scales.
        quantizer: The head of their tokenizer, in evaluation mode.

    Attributes:
        parts: Codebooks, or groups of bits of large ones: p codes of a position.
        vocabulary: Sum V of the numbers of codewords of the parts.
        number: Number of positions n of all scales.
    """

    def __init__(self, header: Header, quantizer: Quantizer):
        self.layout, self.quantizer, self.sizes = header.layout, quantizer, header.codebook_sizes
        if len(self.layout.grids) < 2:
            raise ValueError("a next-scale model needs tokens of a multi-scale head, not of one grid")
        self.parts = parts_of(self.sizes, LARGEST_CODEBOOK, GROUP_BITS)
        self.vocabulary = sum(part.size for part in self.parts)
        self.lengths = [h * w for h, w in self.layout.grids]
        self.number = sum(self.lengths)

    def sequences(self, codes: Tensor, keep: Tensor | None = None) -> ScaleBatch:
        """Positions and inputs of codes (b, k, 1, n)."""
        before = codes[..., : self.number - self.lengths[-1]]
        return ScaleBatch(split(codes, self.parts)[:, :, 0].mT, self.inputs(before))

    @torch.no_grad()
    def inputs(self, codes: Tensor) -> Tensor:
        """Inputs (b, l, d) of the scales after the first one, up to that after the last one of codes (b, k, 1, n)."""
        device = next((tensor.device for tensor in self.quantizer.state_dict().values()), codes.device)
        latents = self.quantizer.partial(codes.to(device), self.layout)
        following = zip(latents, self.layout.grids[1:], strict=False)
        pooled = [F.adaptive_avg_pool2d(latent, grid).flatten(2).mT for latent, grid in following]
        return torch.cat(pooled, dim=1).to(codes.device)


class NextScaleModel(nn.Module):
    """Distribution of the codes of each scale.

    Args:
        space: Scales and inputs.
        classes: Number of classes C; 0 for images without labels. The label C means no class.
        layers: Number of blocks.
        width: Channels of a position.
        heads: Number of attention heads.
    """

    def __init__(self, space: ScaleSpace, classes: int = 0, layers: int = 2, width: int = 128, heads: int = 4):
        super().__init__()
        self.space, self.classes = space, classes
        self.start = nn.Embedding(classes + 1, width)
        self.input = nn.Linear(space.quantizer.dim, width)
        self.positions = nn.Embedding(space.number, width)
        self.blocks = nn.ModuleList(CausalBlock(width, heads) for _ in range(layers))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, space.vocabulary)
        scales = torch.arange(len(space.lengths)).repeat_interleave(torch.tensor(space.lengths))
        self.register_buffer("visible", scales[:, None] >= scales, persistent=False)  # (n, n) bool, of each query
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for block in self.blocks:  # as in NextIdModel
            for last in (block.project, block.narrow):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * layers))

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Logits (b, l, V), float32, of the first scale and those whose ``inputs`` (b, l - m, d) are given."""
        start = self.start(labels)[:, None].expand(-1, self.space.lengths[0], -1)
        x = torch.cat([start, self.input(inputs)], dim=1)
        length = x.shape[1]
        x = x + self.positions.weight[:length]
        for block in self.blocks:
            x, _ = block(x, visible=self.visible[:length, :length])
        return self.output(self.norm(x)).float()

    def nats(self, batch: ScaleBatch, labels: Tensor) -> Tensor:
        """-ln p of each code, (b, n, p)."""
        logits = self(batch.inputs, labels).split([part.size for part in self.space.parts], dim=2)
        own = zip(logits, batch.ids.unbind(2), strict=True)
        return torch.stack([F.cross_entropy(part.mT, ids, reduction="none") for part, ids in own], dim=2)

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        generator: torch.Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draws codes (b, k, 1, n) int64 for labels (b,), a scale at a time.

        Args:
            labels: Classes; C for none.
            generator: Random numbers, of the model's device.
            temperature: Divisor of the logits.
            top_k: Number of the most probable codes that can be drawn; None for all.
            guidance: Scale of classifier-free guidance (arXiv:2207.12598); 1 is without.
        """
        codes = torch.zeros(len(labels), len(self.space.sizes), 1, 0, dtype=torch.int64, device=labels.device)
        largest = torch.tensor(self.space.sizes, device=labels.device)[:, None, None] - 1
        inputs = torch.zeros(len(labels), 0, self.space.quantizer.dim, device=labels.device)
        for length in self.space.lengths:
            logits = self(inputs, labels)[:, -length:]
            if guidance != 1:
                without = self(inputs, torch.full_like(labels, self.classes))[:, -length:]
                logits = without + guidance * (logits - without)
            own = torch.zeros(len(labels), len(self.space.sizes), 1, length, dtype=torch.int64, device=labels.device)
            for part, scores in zip(
                self.space.parts, logits.split([part.size for part in self.space.parts], 2), strict=True
            ):
                chosen = drawn(scores.flatten(0, 1), generator, temperature, top_k)
                own[:, part.codebook, 0] += chosen.view(-1, length) << part.shift
            codes = torch.cat([codes, own.minimum(largest)], dim=3)
            if codes.shape[3] < self.space.number:
                inputs = self.space.inputs(codes)
        return codes
