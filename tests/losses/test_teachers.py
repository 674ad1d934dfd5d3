"""Frozen teachers: what they see, what they give, and where their weights come from."""

from functools import partial

import huggingface_hub.constants
import pytest
import timm
import torch
from torch import nn

from vistok.losses import ContrastiveAlignment, Teacher
from vistok.pretrained import WeightsUnavailable
from vistok.training.module import LitTokenizer
from vistok.training.schedules import Schedule

MODEL = "test_vit"  # 64 channels, 160 pixels, a class token


def pictures(size=32):
    torch.manual_seed(0)
    return torch.rand(2, 3, size, size) * 2 - 1


def test_its_input_is_fqgans(golden, close):
    values = golden("heads", "fqgan_infonce")
    teacher = Teacher(MODEL, "random")
    clip = timm.get_pretrained_cfg("vit_large_patch14_clip_quickgelu_224.openai")
    teacher.mean, teacher.std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (clip.mean, clip.std))
    prepared = teacher.prepare(values["teacher_input.images"])
    assert prepared.shape == (2, 3, 224, 224)
    close(prepared[:, :, ::37, ::41], values["teacher_input.clip_row0"])


def test_resizes():
    images = pictures()
    bicubic = Teacher(MODEL, "random", size=16, resize="bicubic").prepare(images)
    expected = nn.functional.interpolate(images, (16, 16), mode="bicubic", antialias=True).clamp(-1, 1)
    torch.testing.assert_close(bicubic, expected)  # test_vit's mean and deviation are a half


def test_the_class_token_and_the_patches():
    teacher, patches = Teacher(MODEL, "random", size=64), Teacher(MODEL, "random", size=64, patches=True)
    tokens = teacher.network.forward_features(teacher.prepare(pictures()))
    assert tokens.shape == (2, 1 + 16, teacher.dim) and teacher.dim == patches.dim == 64
    torch.testing.assert_close(teacher(pictures()), tokens[:, 0])
    torch.testing.assert_close(patches(pictures()), tokens[:, 1:])


def test_before_the_final_norm():
    after, before = Teacher(MODEL, "random"), Teacher(MODEL, "random", final_norm=False)
    features = before(pictures())
    assert features.std(1).sub(1).abs().max() > 0.1  # not normalised
    torch.testing.assert_close(after.network.norm(features), after(pictures()))


def test_convnets_and_pooled_features():
    teacher = Teacher("mobilenetv3_small_050", "random", size=64)
    patches = Teacher("mobilenetv3_small_050", "random", size=64, patches=True)
    assert teacher(pictures()).shape == (2, teacher.dim) == (2, 1024)
    assert patches(pictures()).shape == (2, 4, patches.dim) == (2, 4, 288)


def test_random_weights_are_the_same_every_time():
    state = torch.get_rng_state()
    teacher = Teacher(MODEL, "random")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(Teacher(MODEL, "random")(pictures()), teacher(pictures()))


def test_weights_from_a_file(tmp_path):
    model = timm.create_model(MODEL).eval()  # with its classifier, which is left out
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    teacher = Teacher(MODEL, tmp_path / "weights.pt", size=160)
    torch.testing.assert_close(teacher(pictures()), model.forward_features(teacher.prepare(pictures()))[:, 0])
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="does not fit"):
        Teacher(MODEL, tmp_path / "other.pt")


def test_missing_weights_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"timm's weights of test_vit.*give the path of a file"):
        Teacher(MODEL)


def test_it_stays_frozen_and_in_evaluation():
    teacher = nn.ModuleList([Teacher(MODEL, "random")]).train()[0]
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(pictures().requires_grad_()).requires_grad


def test_checkpoints_and_optimizers_have_its_predictor_only(make_tokenizer):
    teacher = Teacher(MODEL, "random", size=32)
    losses = {"semantic": ContrastiveAlignment(teacher, dim=4, grid=4, depth=1)}
    weights = {"l1": 1.0, "semantic": 0.5, "commitment": 1.0, "codebook": 1.0}
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    lit = LitTokenizer(make_tokenizer(), {"l1": nn.L1Loss()}, weights, optimizer, Schedule(1), latent_losses=losses)
    predictor = losses["semantic"].predictor
    saved = {key for key in lit.saved(lit.state_dict()) if key.startswith("latent_losses.")}
    assert saved == {f"latent_losses.semantic.predictor.{key}" for key in predictor.state_dict()}
    (generator,) = lit.configure_optimizers()
    stepped = {id(parameter) for group in generator.param_groups for parameter in group["params"]}
    assert stepped == {id(p) for p in (*lit.tokenizer.parameters(), *predictor.parameters())}


@pytest.mark.parametrize("arguments, message", [
    ({"model": "vit_of_nowhere"}, "timm has no model 'vit_of_nowhere'"),
    ({"resize": "bilinear"}, "resize must be nearest or bicubic, not 'bilinear'"),
    ({"model": "mobilenetv3_small_050", "final_norm": False}, "final_norm=False: mobilenetv3_small_050 does not end"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Teacher(**{"model": MODEL, "weights": "random"} | arguments)
