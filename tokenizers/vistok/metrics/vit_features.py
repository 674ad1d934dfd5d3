"""Vision transformers from local files, with the image processing of published metrics: FD-DINOv2 and CMMD."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vistok.metrics.feature_networks import FeatureNetwork
from vistok.pretrained import load_state, read_state

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_COLOURS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HEAD = 64  # channels of an attention head, in all of these models
SIZES = {384: "s", 768: "b", 1024: "l", 1280: "h", 1536: "g"}  # letters by width
OF_CLIP = {  # names in timm's layout: those of transformers, and those of OpenAI and open_clip
    "cls_token": r"vision_model\.embeddings\.class_embedding|visual\.class_embedding",
    "patch_embed.proj.weight": r"vision_model\.embeddings\.patch_embedding\.weight|visual\.conv1\.weight",
    "pos_embed": r"vision_model\.embeddings\.position_embedding\.weight|visual\.positional_embedding",
    r"norm_pre.\g<end>": r"(?:vision_model\.pre_layrnorm|visual\.ln_pre)\.(?P<end>weight|bias)",
    r"norm.\g<end>": r"(?:vision_model\.post_layernorm|visual\.ln_post)\.(?P<end>weight|bias)",
    "head.weight": r"visual_projection\.weight|visual\.proj",
}
OF_CLIP_BLOCKS = {  # of the n-th block
    "attn.{}": r"self_attn\.([qkv])_proj",
    "attn.qkv": r"attn\.in_proj",
    "attn.proj": r"(?:self_attn|attn)\.out_proj",
    "norm1": r"layer_norm1|ln_1",
    "norm2": r"layer_norm2|ln_2",
    "mlp.fc1": r"mlp\.fc1|mlp\.c_fc",
    "mlp.fc2": r"mlp\.fc2|mlp\.c_proj",
}


class DINOv2File(FeatureNetwork):
    """Class token of DINOv2 (arXiv:2304.07193) as dgm-eval extracts it (arXiv:2306.04675), for FD-DINOv2.

    Images are resized to 224 × 224 pixels by Pillow's bicubic filter, on 8 bits.

    Args:
        weights: File of the authors, such as ``dinov2_vitl14_pretrain.pth``. ``name`` has digits of its tensors' hash.

    Raises:
        ValueError: The file does not fit.
    """

    only_uint8 = True
    size = 224

    def __init__(self, weights: str | Path):
        super().__init__()
        state = dict(read_state(weights))
        if "pos_embed" not in state or "register_tokens" in state:
            raise ValueError(f"metrics.fd_dinov2={weights} does not hold a DINOv2 model without registers")
        state.pop("mask_token", None)
        gated = "blocks.0.mlp.w12.weight" in state
        state = {key.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2."): v for key, v in state.items()}
        patch = state["patch_embed.proj.weight"].shape[-1]
        state["pos_embed"] = _resized_positions(state["pos_embed"], self.size // patch)
        self.network = _timm_vit("vit_giant_patch14_dinov2" if gated else "vit_large_patch14_dinov2", state, self.size)
        load_state(self.network, state, weights)
        self.dim = state["pos_embed"].shape[-1]
        self.identify(f"dgm_dinov2_vit{SIZES.get(self.dim, self.dim)}{patch}")
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(_normalized(images, self.size, *IMAGENET))


class CLIPFile(FeatureNetwork):
    """CLIP's image embedding (arXiv:2103.00020) of length 1, as CMMD takes it (arXiv:2401.09603).

    The middle square of an image is resized by Pillow's bicubic filter, on 8 bits.

    Args:
        weights: File of a CLIP vision transformer in transformers' or open_clip's layout. CMMD is defined with OpenAI's
            ViT-L/14 at 336 pixels. Digits of the tensors' hash are part of the name.

    Raises:
        ValueError: The file does not fit.
    """

    only_uint8 = True

    def __init__(self, weights: str | Path):
        super().__init__()
        state = _timm_layout(read_state(weights))
        if not {"cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight"} <= state.keys():
            raise ValueError(f"metrics.cmmd={weights} does not hold CLIP's vision transformer")
        patch, positions = state["patch_embed.proj.weight"].shape[-1], state["pos_embed"].shape[1] - 1
        self.size = patch * round(positions**0.5)
        self.dim, width = state["head.weight"].shape
        name = "vit_large_patch14_clip_quickgelu_336"
        self.network = _timm_vit(name, state, self.size, num_classes=self.dim)
        load_state(self.network, state | {"head.bias": torch.zeros(self.dim)}, weights)
        self.identify(f"clip_vit{SIZES.get(width, width)}{patch}_{self.size}")
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        side = min(images.shape[-2:])
        top, left = ((length - side) // 2 for length in images.shape[-2:])
        square = images[..., top : top + side, left : left + side]
        return F.normalize(self.network(_normalized(square, self.size, *CLIP_COLOURS)))


def _timm_vit(name: str, state: Mapping[str, Tensor], size: int, **arguments: Any) -> nn.Module:
    """timm's model ``name`` of the sizes of a state dict in timm's layout."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"{name} needs timm: pip install 'vistok[timm]'") from error

    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    ratio = state["blocks.0.mlp.fc1.weight"].shape[0] / width
    sizes: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "mlp_ratio": ratio,
    }
    sizes |= {"num_heads": width // HEAD, "num_classes": 0}
    return timm.create_model(name, **(sizes | arguments))


def _resized_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + m², d) of a grid of ``side``, as DINOv2's code interpolates them.

    It scales by (side + 0.1) / m, which moves the places at which the cubic is read.
    """
    m = round((positions.shape[1] - 1) ** 0.5)
    if m == side:
        return positions
    grid = positions[:, 1:].float().reshape(1, m, m, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / m
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1].float(), grid.flatten(2).transpose(1, 2)], 1)


def _timm_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of CLIP's vision transformer in timm's layout; tensors of other parts are left out."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        block = re.fullmatch(r"(?:vision_model\.encoder\.layers|visual\.transformer\.resblocks)\.(\d+)\.(.*)", key)
        if block:
            for name, pattern in OF_CLIP_BLOCKS.items():
                if match := re.fullmatch(rf"(?:{pattern})[._](weight|bias)", block[2]):
                    found[f"blocks.{block[1]}.{name.format(match[1])}.{match.groups()[-1]}"] = value
            continue
        for name, pattern in OF_CLIP.items():
            if match := re.fullmatch(pattern, key):
                found[match.expand(name)] = value.T if key == "visual.proj" else value
    for key in [key for key in found if ".attn.q." in key]:
        parts = [found.pop(key.replace(".q.", f".{part}.")) for part in "qkv"]
        found[key.replace(".q.", ".qkv.")] = torch.cat(parts)
    for key in {"cls_token", "pos_embed"} & found.keys():
        found[key] = found[key].reshape(1, -1, found[key].shape[-1])
    return found


def _normalized(images: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (b, 3, H, W) uint8 resized by Pillow to ``size`` × ``size``, with normalized colours."""
    resized = images
    if images.shape[-2:] != (size, size):
        pictures = (Image.fromarray(np.ascontiguousarray(own)) for own in images.permute(0, 2, 3, 1).cpu().numpy())
        pixels = np.stack([np.asarray(own.resize((size, size), Image.Resampling.BICUBIC)) for own in pictures])
        resized = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(images.device)
    shift, scale = (torch.tensor(own, device=images.device).view(3, 1, 1) for own in (mean, std))
    return (resized.float() / 255 - shift) / scale
