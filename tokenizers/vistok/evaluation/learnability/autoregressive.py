"""A small transformer that predicts the next id from those before it, its slot, and perhaps the class of the image.

The blocks are those of GPT-2: norms first, GELU, weights of the output shared with the embedding. The slot of the next
id is an input, so the model knows which codebook, position and granularity it predicts.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistok.evaluation.learnability.id_sequences import PADDING, IdBatch, IdSpace

Cache = dict[int, tuple[Tensor, Tensor]]  # keys and values (b, heads, l, d) by the number of the block


class CausalBlock(nn.Module):
    """Attention to the ids before or to the visible ones, and two layers of four times the width.

    Args:
        width: Channels of an id.
        heads: Number of attention heads.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self, x: Tensor, before: tuple[Tensor, Tensor] | None = None, visible: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Maps (b, l, d), with the keys and values of earlier ids, to the same shape and all keys and values.

        ``visible`` (l, l) bool says which ids each one attends to; None for itself and those before it.
        """
        q, k, v = rearrange(self.attention(self.norm1(x)), "b l (n h d) -> n b h l d", n=3, h=self.heads)
        if before is not None:
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v, visible, is_causal=visible is None and q.shape[2] > 1)
        x = x + self.project(rearrange(mixed, "b h l d -> b l (h d)"))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x)))), (k, v)


class NextIdModel(nn.Module):
    """Distribution of each id of an image.

    Args:
        space: Ids and slots.
        classes: Number of classes C; 0 for images without labels. The label C means no class.
        layers: Number of blocks.
        width: Channels of an id.
        heads: Number of attention heads.
    """

    def __init__(self, space: IdSpace, classes: int = 0, layers: int = 2, width: int = 128, heads: int = 4):
        super().__init__()
        self.space, self.classes = space, classes
        self.ids = nn.Embedding(space.vocabulary + classes + 1, width)
        self.slots = nn.Embedding(space.number, width)
        self.blocks = nn.ModuleList(CausalBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("allowed", space.allowed, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for block in self.blocks:  # so that the sum over blocks has the variance of one
            for last in (block.project, block.narrow):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * layers))

    def forward(self, before: Tensor, slots: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits (b, l, V), float32, of the ids at ``slots`` (b, l), given the id before each of them.

        Args:
            before: (b, l) int64, ids before; the first is that of ``start``.
            slots: (b, l) int64.
            cache: Keys and values of earlier calls, which this one extends; empty at first. None keeps none.
        """
        x = self.ids(before) + self.slots(slots)
        for i, block in enumerate(self.blocks):
            x, held = block(x, cache.get(i) if cache else None)
            if cache is not None:
                cache[i] = held
        logits = F.linear(self.norm(x), self.ids.weight[: self.space.vocabulary]).float()
        if self.space.kinds == 1:
            return logits
        return logits.masked_fill(~self.allowed[slots % self.space.kinds], -math.inf)

    def start(self, labels: Tensor) -> Tensor:
        """Ids (b, 1) before the first one, for labels (b,)."""
        return labels[:, None] + self.space.vocabulary

    def nats(self, batch: IdBatch, labels: Tensor) -> Tensor:
        """-ln p of each id, (b, l); 0 for padding."""
        before = torch.cat([self.start(labels), batch.ids[:, :-1].clamp(min=0)], dim=1)
        logits = self(before, batch.slots).flatten(0, 1)
        nats = F.cross_entropy(logits, batch.ids.flatten(), ignore_index=PADDING, reduction="none")
        return nats.view_as(batch.ids)

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        generator: torch.Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draws codes (b, k, h, w) int64 for labels (b,).

        Args:
            labels: Classes; C for none.
            generator: Random numbers, of the model's device.
            temperature: Divisor of the logits.
            top_k: Number of the most probable ids that can be drawn; None for all.
            guidance: Scale of classifier-free guidance (arXiv:2207.12598); 1 is without.
        """
        b, number, guided = len(labels), self.space.number, guidance != 1
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, self.classes)])
        before, slots = self.start(labels), torch.zeros(b, dtype=torch.int64, device=labels.device)
        table = slots.new_zeros(b, number + 1)  # its last column takes what is drawn after the end
        cache: Cache = {}
        while bool((slots < number).any()):
            own = slots.clamp(max=number - 1)
            logits = self(before, (torch.cat([own, own]) if guided else own)[:, None], cache)[:, 0]
            if guided:
                with_class, without = logits.log_softmax(-1).chunk(2)
                logits = torch.where(with_class.isinf(), with_class, without + guidance * (with_class - without))
            ids = drawn(logits, generator, temperature, top_k)
            table.scatter_(1, slots[:, None], ids[:, None])
            slots = torch.where(slots < number, self.space.following(slots, ids), slots)
            before = (torch.cat([ids, ids]) if guided else ids)[:, None]
        return self.space.codes(table[:, :number])


def drawn(logits: Tensor, generator: torch.Generator, temperature: float, top_k: int | None) -> Tensor:
    """Random choices (b,) int64 among V by their logits (b, V). Arguments: see ``NextIdModel.sample``."""
    logits = logits / temperature
    if top_k:
        least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
