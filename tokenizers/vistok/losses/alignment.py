"""Representation learning: alignment of latents with the features of a frozen teacher (FQGAN, arXiv:2411.16681).

A latent loss is ``loss(latent, images)``. These losses have parameters, those of the predictor, which the generator's
optimizer trains; the tokenizer is exported without them.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from vistok.backbones.adapters import clip_blocks, learned_positions
from vistok.distributed.collectives import cat_over_ranks, rank_and_size
from vistok.losses.teachers import Teacher


class ContrastiveAlignment(nn.Module):
    """Predicts from the quantized latent of one sub-codebook which image of the batch it belongs to (section 3.4).

    Args:
        teacher: Teacher of features (b, teacher.dim) of images; the predictor has its width.
        dim: Channels of the whole latent.
        num_parts: Number of sub-codebooks, which share the channels equally.
        part: Index of the sub-codebook that learns from the teacher, from 0.
        grid: Side of the latent grid of the predictor's learned positions, which are interpolated to other grids.
        depth: Transformer blocks of the predictor.
        heads: Attention heads of a block; must divide ``teacher.dim``.
        gather: True takes negatives from all processes; the authors take those of one process.
    """

    def __init__(
        self,
        teacher: Teacher,
        dim: int,
        num_parts: int = 1,
        part: int = 0,
        grid: int = 16,
        depth: int = 3,
        heads: int = 8,
        gather: bool = True,
    ):
        super().__init__()
        if teacher.patches:
            raise ValueError("patches=True: this loss compares images, so the teacher must give one feature of each")
        self.num_parts, self.part, self.gather = num_parts, part, gather
        self.teacher = teacher
        self.predictor = FeaturePrediction(width_of(dim, num_parts, part), teacher.dim, grid, depth, heads)

    def forward(self, latent: Tensor, images: Tensor) -> Tensor:
        predicted = self.predictor(latent.chunk(self.num_parts, dim=1)[self.part])
        return info_nce(predicted, self.teacher(images), self.gather)


class PatchAlignment(nn.Module):
    """Cosine distance between the teacher's patch features and a small network's prediction from the latent.

    As in REPA (arXiv:2410.06940), with two layers; the prediction is resized to the teacher's grid. The loss is one
    minus the cosine.

    Args:
        teacher: Teacher of features of patches (b, n, teacher.dim) on a square grid.
        dim: Channels of the latent of all sub-codebooks.
        num_parts: Number of sub-codebooks, which share the channels equally.
        part: Index of the sub-codebook that learns from the teacher, from 0.
        hidden: Channels of the hidden layer.
    """

    def __init__(self, teacher: Teacher, dim: int, num_parts: int = 1, part: int = 0, hidden: int = 1024):
        super().__init__()
        if not teacher.patches:
            raise ValueError("patches=False: this loss compares patches, so the teacher must give their features")
        self.num_parts, self.part = num_parts, part
        self.teacher = teacher
        before = width_of(dim, num_parts, part)
        self.predictor = nn.Sequential(nn.Conv2d(before, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, teacher.dim, 1))

    def forward(self, latent: Tensor, images: Tensor) -> Tensor:
        features = self.teacher(images)
        return patch_distance(self.predictor(latent.chunk(self.num_parts, dim=1)[self.part]), features)


def patch_distance(predicted: Tensor, features: Tensor) -> Tensor:
    """One minus the mean cosine of the channels of a map and a teacher's patch features, a float32 scalar.

    Args:
        predicted: (b, d, h, w), resized to the teacher's grid where that is another one.
        features: (b, n, d) on a square grid, row by row.
    """
    predicted, features = predicted.float(), features.float()
    side = math.isqrt(features.shape[1])
    if predicted.shape[2:] != (side, side):
        predicted = F.interpolate(predicted, (side, side), mode="bilinear", antialias=True)
    return 1 - F.cosine_similarity(rearrange(predicted, "b d h w -> b (h w) d"), features, dim=2).mean()


def width_of(dim: int, num_parts: int, part: int) -> int:
    """Channels of one of the equal parts of a latent."""
    if num_parts < 1 or dim % num_parts:
        raise ValueError(f"num_parts={num_parts} does not divide the latent's {dim} channels")
    if not 0 <= part < num_parts:
        raise ValueError(f"part={part} must be one of 0 to {num_parts - 1}")
    return dim // num_parts


class FeaturePrediction(nn.Module):
    """Predicts one feature of the image (b, width) from a quantized latent (b, dim, h, w) by a small ViT's class token.

    With ``dim=8``, ``width=1024`` and ``grid=16`` it has 39,115,776 parameters, as published.

    Args:
        dim: Channels of the latent.
        width: Channels of the feature and of the transformer.
        grid: Side of the latent grid of the learned positions, which are interpolated to other grids.
        depth: Number of transformer blocks.
        heads: Attention heads of a block; must divide ``width``.
    """

    def __init__(self, dim: int, width: int, grid: int = 16, depth: int = 3, heads: int = 8):
        super().__init__()
        self.upscale = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width))
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.class_position = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positions = learned_positions(width, grid)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*clip_blocks(width, depth, heads))
        self.norm_out = nn.LayerNorm(width)

    def forward(self, latent: Tensor) -> Tensor:
        tokens = self.upscale(rearrange(latent, "b d h w -> b (h w) d"))
        tokens = tokens + rearrange(self.positions(latent), "d h w -> (h w) d")
        first = repeat(self.class_token + self.class_position, "d -> b 1 d", b=len(latent))
        tokens = self.blocks(self.norm_in(torch.cat([first, tokens], dim=1)))
        return self.norm_out(tokens[:, 0])


def info_nce(predicted: Tensor, teacher: Tensor, gather: bool = True) -> Tensor:
    """Cross-entropy of identifying each prediction's teacher feature within the batch (section 3.4 and code).

    ``-mean_b log softmax_j cos(p_b, t_j)`` at ``j = b``, without a temperature. Only teacher features are negatives, so
    only they are gathered: the mean over ranks of value and gradient then equals that of one process with all images.

    Args:
        predicted: (b, d), one vector for each image of this process.
        teacher: The same shape; gets no gradient.
        gather: True takes negatives from all processes, each of which must have b images; False from this process
            alone, as in the authors' code.

    Returns:
        A scalar; the logarithm of the number of images for uninformative features.
    """
    with torch.autocast(predicted.device.type, enabled=False):  # bf16 would round the cosines to two or three digits
        own = torch.arange(len(predicted), device=predicted.device)
        features = teacher.detach().float()
        if gather:
            own = own + rank_and_size()[0] * len(predicted)
            features = cat_over_ranks(features)
        similarity = F.normalize(predicted.float(), dim=1) @ F.normalize(features, dim=1).T
        return F.cross_entropy(similarity, own)
