"""Networks of FD-DINOv2 and CMMD, against the code that defines them, with weights by a formula."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

from vistok.evaluation.networks import score_names
from vistok.metrics.vit_features import CLIPFile, DINOv2File, _normalized

WIDTH, PATCH = 128, 14


def pictures() -> Tensor:
    """Smooth uint8 images of 70 × 90 pixels."""
    coarse = torch.randint(256, (3, 3, 6, 6), generator=torch.Generator().manual_seed(5)).float()
    return torch.nn.functional.interpolate(coarse, (70, 90), mode="bilinear").round().to(torch.uint8)


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.08 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def dinov2(gated: bool) -> dict[str, Tensor]:
    """A state dict in the authors' layout: two blocks of two heads."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + 37**2, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    hidden = 344  # of the gated: two thirds of 512, to a multiple of 8
    mlp = {"w12": (2 * hidden, WIDTH), "w3": (WIDTH, hidden)} if gated else {"fc1": (512, WIDTH), "fc2": (WIDTH, 512)}
    for i in range(2):
        layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
        layers |= {f"mlp.{name}": shape for name, shape in mlp.items()}
        for name, shape in layers.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{i}.{name}"] = (WIDTH,)
    state = weights(shapes)
    return {name: own + ("norm" in name and name.endswith("weight") or "gamma" in name) for name, own in state.items()}


PLAIN = [
    [0.84581, 0.72357, 0.41403, -0.22208],
    [1.1849, 0.76539, 0.43411, 0.34258],
    [1.2015, 0.21937, 0.11095, 0.19008],
]
GATED = [
    [-2.16494, 0.72099, 2.11117, 0.15015],
    [-2.42938, 0.37638, 1.93427, 0.8584],
    [-0.93906, -0.79999, 1.47062, 1.3402],
]


@pytest.mark.parametrize(("gated", "expected"), [(False, PLAIN), (True, GATED)])
def test_dinov2_is_the_authors(tmp_path, gated, expected):
    """Class tokens of the same weights and pictures by facebookresearch/dinov2 (b8931f7) after dgm-eval's transform."""
    torch.save(dinov2(gated), tmp_path / "weights.pth")
    network = DINOv2File(tmp_path / "weights.pth")
    features = network(pictures())
    assert features.shape == (3, WIDTH) and network.dim == WIDTH
    torch.testing.assert_close(features[:, :4], torch.tensor(expected), rtol=0, atol=2e-4)
    name = network.name
    assert name.startswith("dgm_dinov2_vit12814_") and score_names(network) == {f"frechet_{name}": WIDTH}


def test_dinov2_files_of_other_models(tmp_path):
    torch.save(dinov2(False) | {"register_tokens": torch.zeros(1, 4, WIDTH)}, tmp_path / "registers.pth")
    with pytest.raises(ValueError, match="registers.pth does not hold a DINOv2 model without registers"):
        DINOv2File(tmp_path / "registers.pth")
    state = dinov2(False)
    del state["blocks.1.ls2.gamma"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ValueError, match="less.pth does not fit: missing keys .*blocks.1.ls2.gamma"):
        DINOv2File(tmp_path / "less.pth")


def test_images_are_resized_as_dgm_eval_does():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = Compose([Resize((224, 224), InterpolationMode.BICUBIC), ToTensor(), Normalize(mean, std)])
    expected = torch.stack([theirs(pillow(own)) for own in pictures()])
    torch.testing.assert_close(_normalized(pictures(), 224, mean, std), expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def clip():
    sizes = {"hidden_size": WIDTH, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(**sizes, image_size=56, patch_size=PATCH, projection_dim=48)
    torch.manual_seed(0)
    network = transformers.CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return network


def open_clip_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under OpenAI's names."""
    renamed, projections = {}, {}
    for key, value in state.items():
        key = key.removeprefix("vision_model.")
        for old, new in {
            "embeddings.class_embedding": "class_embedding",
            "embeddings.patch_embedding": "conv1",
            "embeddings.position_embedding.weight": "positional_embedding",
            "pre_layrnorm": "ln_pre",
            "post_layernorm": "ln_post",
            "visual_projection.weight": "proj",
            "encoder.layers": "transformer.resblocks",
            "layer_norm": "ln_",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
            "self_attn": "attn",
        }.items():
            key = key.replace(old, new)
        if any(f".{part}_proj." in key for part in "qkv"):
            projections[key] = value
        else:
            renamed[f"visual.{key}"] = value.T if key == "proj" else value
    for key in projections:
        if ".q_proj." in key:
            parts = [projections[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            renamed[f"visual.{key.replace('.q_proj.', '.in_proj_')}"] = torch.cat(parts)
    return renamed | {"logit_scale": torch.tensor(1.0), "transformer.resblocks.0.ln_1.weight": torch.ones(3)}


@pytest.mark.parametrize("layout", [dict, open_clip_layout])
def test_clip_is_transformers(clip, layout, tmp_path):
    """Embeddings of the middle squares, after cmmd-pytorch's steps; other parts of the file are left out."""
    state = layout(clip.state_dict()) | {"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2, 2)}
    torch.save(state, tmp_path / "clip.pt")
    network = CLIPFile(tmp_path / "clip.pt")
    middle = [pillow(own).crop((10, 0, 80, 70)).resize((56, 56), Image.Resampling.BICUBIC) for own in pictures()]
    processor = transformers.CLIPImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False)
    pixels = processor(images=[np.asarray(own) / 255 for own in middle], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = clip(pixel_values=pixels.float()).image_embeds
    actual = network(pictures())
    assert network.name.startswith("clip_vit12814_56_") and actual.shape == (3, network.dim) == (3, 48)
    torch.testing.assert_close(actual, expected / expected.norm(dim=-1, keepdim=True), rtol=0, atol=1e-5)


def test_clip_files_of_other_models(tmp_path: Path):
    torch.save(dinov2(False), tmp_path / "dinov2.pth")
    with pytest.raises(ValueError, match="dinov2.pth does not hold CLIP's vision transformer"):
        CLIPFile(tmp_path / "dinov2.pth")
