"""Frozen teacher networks from timm: DINOv2, CLIP, SigLIP or any other."""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistok.pretrained import FrozenNetwork, timm_network


class Teacher(FrozenNetwork):
    """Maps images (b, 3, H, W) in [-1, 1] to features (b, dim) in float32 or autocast's type, without gradient.

    The feature of an image is the input of the model's classifier: the class token of CLIP (before its projection) and
    DINOv2, the attention-pooled token of SigLIP. Images are resized, not cropped, and normalised with timm's values for
    the model. FQGAN and others use these models:

    * ``vit_large_patch14_clip_quickgelu_224.openai`` and ``vit_base_patch16_clip_quickgelu_224.openai``: CLIP with the
      activation of its training, with ``final_norm=False``; timm's same names without ``quickgelu`` have another
      activation.
    * ``vit_small_patch14_dinov2.lvd142m``: its positions are for 518 pixels; timm resizes them (bicubic, antialiased,
      which the authors of DINOv2 do not).
    * ``vit_base_patch16_siglip_224.webli``.

    Args:
        model: Name of the model in timm, with the tag of its weights.
        weights: ``pretrained`` downloads timm's weights, ``random`` draws the same random weights every time (for
            debugging); any other value is the path of a state dict in timm's layout.
        size: Side in pixels of the square that images are resized to.
        resize: ``nearest``, as in FQGAN, or ``bicubic``, antialiased.
        patches: True returns the features of the patches, (b, n, dim) row by row; False one feature of the image.
        final_norm: True takes features after the transformer's last norm. False gives the class token in Hugging Face's
            ``last_hidden_state`` of CLIP, which FQGAN uses.

    Attributes:
        dim: Channels of a feature.

    Raises:
        WeightsUnavailable: The download failed.
        ValueError: timm has no such model or weights, the file does not fit, or the model has no such norm.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor
    dim: int

    def __init__(
        self,
        model: str,
        weights: str | Path = "pretrained",
        size: int = 224,
        resize: Literal["nearest", "bicubic"] = "nearest",
        patches: bool = False,
        final_norm: bool = True,
    ):
        super().__init__()
        if resize not in ("nearest", "bicubic"):
            raise ValueError(f"resize must be nearest or bicubic, not {resize!r}")
        self.size, self.resize, self.patches = size, resize, patches
        self.network, settings = timm_network(model, weights)
        if self.network.pretrained_cfg["fixed_input_size"] and settings["input_size"][1:] != (size, size):
            self.network.set_input_size((size, size))
        if not final_norm:
            if not isinstance(getattr(self.network, "norm", None), nn.LayerNorm):
                raise ValueError(f"final_norm=False: {model} does not end in a LayerNorm")
            self.network.norm = nn.Identity()
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings["std"]).view(3, 1, 1), persistent=False)
        self.dim = self.network.num_features if patches else self.network.head_hidden_size
        self.freeze()

    def prepare(self, images: Tensor) -> Tensor:
        """Converts images (b, 3, H, W) in [-1, 1] to the network's input."""
        if self.resize == "nearest":
            resized = F.interpolate(images, self.size, mode="nearest")
        else:
            resized = F.interpolate(images, self.size, mode="bicubic", antialias=True).clamp(-1, 1)
        return ((resized + 1) / 2 - self.mean) / self.std

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        prepared = self.prepare(self.view(images))
        if not self.patches:
            return self.network(prepared)
        features = self.network.forward_features(prepared)
        if features.ndim == 4:  # a convnet's map
            return rearrange(features, "b d h w -> b (h w) d")
        return features[:, self.network.num_prefix_tokens :]
