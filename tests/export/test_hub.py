"""A tokenizer saved and loaded is the same tokenizer, and a folder from a stranger is only data."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import vistok
from vistok.export import hub


@pytest.mark.parametrize("arguments", [{}, {"cosine": True}, {"ema_decay": 0.9}])
def test_round_trip(make_tokenizer, tmp_path, arguments):
    tokenizer = make_tokenizer(**arguments).eval()
    hub.save(tokenizer, tmp_path)
    loaded = vistok.load(tmp_path)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert torch.equal(loaded.tokenize(images), codes)
    assert torch.equal(loaded.detokenize(codes), tokenizer.detokenize(codes))
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_maps_of_other_kernels_and_pixel_ranges(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer = vistok.Tokenizer(
        tokenizer.encoder,
        tokenizer.quantizer,
        tokenizer.decoder,
        torch.nn.Conv2d(16, 4, 3, padding=1),
        torch.nn.Conv2d(4, 16, 3, padding=1),
        vistok.PixelMap(0.5, 0.5),
    ).eval()
    loaded = vistok.load(hub.save(tokenizer, tmp_path))
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    assert loaded.pixels == vistok.PixelMap(0.5, 0.5)
    assert torch.equal(loaded(images).reconstruction, tokenizer(images).reconstruction)


def test_a_run_folder_will_do(make_tokenizer, tmp_path):
    hub.save(make_tokenizer(), tmp_path / "tokenizer")
    assert vistok.load(tmp_path).factor == 4


def test_description_and_building_are_inverse(make_tokenizer):
    description = hub.describe(make_tokenizer())
    assert hub.describe(hub.build(json.loads(json.dumps(description)))) == description


@pytest.fixture
def exported(make_tokenizer, tmp_path):
    return hub.save(make_tokenizer(), tmp_path / "exported")


def rewrite(folder, change):
    config = json.loads((folder / hub.CONFIG).read_text())
    change(config)
    (folder / hub.CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize("change, message", [
    (lambda c: c["tokenizer"]["encoder"].update({"class": "os.system"}), "unknown class 'os.system'"),
    (lambda c: c["tokenizer"]["encoder"].update(_target_="os.system"), "CNNEncoder has no argument _target_"),
    (lambda c: c["tokenizer"]["encoder"].update(channels="many"), "the arguments of CNNEncoder do not fit"),
    (lambda c: c["tokenizer"].pop("decoder"), "the arguments of Tokenizer do not fit"),
    (lambda c: c["tokenizer"]["encoder"].update(channels=16), "does not fit config.json"),
    (lambda c: c.update(format=99), "has the format 99; this version reads 1"),
    (lambda c: c.update(tokenizer=c["tokenizer"]["encoder"]), "describes a CNNEncoder, not a Tokenizer"),
    (lambda c: c.update(tokenizer=None), "describes a NoneType, not a Tokenizer"),
])  # fmt: skip
def test_a_config_that_is_wrong(exported, change, message):
    rewrite(exported, change)
    with pytest.raises(ValueError, match=message):
        vistok.load(exported)


def test_files_that_are_wrong(exported):
    weights = load_file(exported / hub.WEIGHTS)
    save_file({key: tensor for key, tensor in weights.items() if "conv_in" not in key}, exported / hub.WEIGHTS)
    with pytest.raises(ValueError, match="Missing key"):
        vistok.load(exported)
    (exported / hub.WEIGHTS).write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="does not fit"):
        vistok.load(exported)
    (exported / hub.CONFIG).write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        vistok.load(exported)
    (exported / hub.CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match="it has no config.json"):
        vistok.load(exported)


def test_a_part_of_no_known_class(make_tokenizer, tmp_path):
    class Mine(torch.nn.Conv2d):
        pass

    tokenizer = make_tokenizer()
    tokenizer.to_latent = Mine(16, 4, 1)
    with pytest.raises(ValueError, match="Mine cannot be exported"):
        hub.save(tokenizer, tmp_path / "not")
    assert not (tmp_path / "not").exists()
