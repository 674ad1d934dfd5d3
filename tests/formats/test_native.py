"""A tokenizer saved and loaded is the same tokenizer, and a folder from a stranger is only data."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import vistok
from vistok.formats import native


@pytest.mark.parametrize("arguments", [{}, {"cosine": True}, {"ema_decay": 0.9}])
def test_round_trip(make_tokenizer, tmp_path, arguments):
    tokenizer = make_tokenizer(**arguments).eval()
    native.save(tokenizer, tmp_path)
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
    loaded = vistok.load(native.save(tokenizer, tmp_path))
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    assert loaded.pixels == vistok.PixelMap(0.5, 0.5)
    assert torch.equal(loaded(images).reconstruction, tokenizer(images).reconstruction)


def test_a_run_folder_will_do(make_tokenizer, tmp_path):
    native.save(make_tokenizer(), tmp_path / "tokenizer")
    assert vistok.load(tmp_path).factor == 4


def test_description_and_building_are_inverse(make_tokenizer):
    description = native.describe(make_tokenizer())
    assert native.describe(native.build(json.loads(json.dumps(description)))) == description


@pytest.fixture
def exported(make_tokenizer, tmp_path):
    return native.save(make_tokenizer(), tmp_path / "exported")


def rewrite(folder, change):
    config = json.loads((folder / native.CONFIG).read_text())
    change(config)
    (folder / native.CONFIG).write_text(json.dumps(config))


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


def encoder(**values):
    return lambda c: c["tokenizer"]["encoder"].update(values)


def head(**values):
    return lambda c: c["tokenizer"].update(quantizer=values)


ROUTED = {"class": "VectorQuantizer", "codebook_size": 32, "dim": 4}


@pytest.mark.parametrize("change, message", [
    (encoder(num_blocks=10**9), "does not fit config.json: it describes a network of far more than the"),
    (encoder(multipliers=[1] * 1_000), "a network of far more than the|attention names"),
    (encoder(multipliers=[]), "attention names the levels"),
    (encoder(multipliers=[1] * 2_000), "a list has 2,000 members, more than 1,024"),
    (encoder(multipliers=[[1, 2, 2]]), "the arguments of CNNEncoder do not fit: multipliers cannot be"),
    (encoder(channels=10**9), "does not fit config.json: it describes a tensor of 1,000,000,000 x 3 x 3 x 3 values"),
    (encoder(channels=10**40), "channels cannot be 1000"),
    (encoder(channels=0), "a tensor of 0 x 3 x 3 x 3 values"),
    (encoder(channels=-8), "channels cannot be -8"),
    (encoder(channels="8"), "channels cannot be '8'"),
    (encoder(channels=8.0), "channels cannot be 8.0"),
    (encoder(channels=True), "channels cannot be True"),
    (encoder(channels=None), "channels cannot be None"),
    (encoder(channels=float("nan")), "channels cannot be nan"),
    (encoder(channels=[8]), r"channels cannot be \[8\]"),
    (encoder(channels={}), "unknown class None"),
    (encoder(**{"class": []}), r"unknown class \[\]"),
    (encoder(**{"class": "x" * 10**5}), "unknown class 'xxx"),
    (encoder(**{"\x1b[2J\n": 1}), r"CNNEncoder has no argument \\x1b\[2J"),
    (head(**ROUTED | {"codebook_size": 2**31 - 1}), "a tensor of 2,147,483,647 x 4 values"),
    (head(**ROUTED | {"codebook_size": 10**12}), "codebook_size cannot be 1000000000000"),
    (head(**ROUTED | {"dim": 2**31 - 1, "codebook_size": 2**31 - 1}), "a tensor of|do not fit"),
    (head(**ROUTED | {"restart": float("inf")}), "restart cannot be inf"),
    (head(**ROUTED | {"estimator": {"class": "PixelMap"}}), "estimator cannot be PixelMap"),
    (head(**{"class": "VQBridge", "codebook_size": 32, "dim": 4, "depth": 10**9}), "a network of far more|a tensor of"),
    (head(**{"class": "DynamicQuantizer", "head": ROUTED,
             "router": {"class": "FeatureRouter", "dim": 4, "grains": 10**9, "groups": 1}}), "a network of far more"),
    (head(**{"class": "DynamicQuantizer", "head": ROUTED,
             "router": {"class": "FeatureRouter", "dim": 4, "groups": 0}}), "integer modulo by zero"),
    (head(**{"class": "DynamicQuantizer", "head": ROUTED,
             "router": {"class": "EntropyRouter", "thresholds": [k * (2**61 - 1) for k in range(20_000)],
                        "patch": 8}}), "a list has 20,000 members"),
    (head(**{"class": "FactorizedQuantizer", "heads": [ROUTED] * 1_000}), "a network of far more"),
    (lambda c: c["tokenizer"]["to_latent"].update(kernel_size=-1), "kernel_size cannot be -1"),
    (lambda c: c["tokenizer"]["to_latent"].update(kernel_size=[1, 1, 1]), "kernel_size cannot be"),
    (lambda c: c["tokenizer"]["to_latent"].update(groups=0), "groups must be a positive integer"),
    (lambda c: c["tokenizer"].update(decoder=c["tokenizer"]["encoder"]), "decoder cannot be a CNNEncoder"),
    (lambda c: c["tokenizer"].update(pixels={"class": "PixelMap", "scale": "1"}), "scale cannot be '1'"),
    (lambda c: c.update(tokenizer=[c["tokenizer"]]), "describes a list, not a Tokenizer"),
    (lambda c: c.update(format=[]), r"has the format \[\]"),
])  # fmt: skip
def test_a_small_config_asks_for_nothing(exported, change, message):
    rewrite(exported, change)
    begin = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        vistok.load(exported)
    assert time.process_time() - begin < 1
    assert str(exported) in str(caught.value) and len(str(caught.value)) < 1_000 and "\n" not in str(caught.value)


def test_weights_of_other_kinds_do_not_fit(exported):
    weights = load_file(exported / native.WEIGHTS)
    table = weights["quantizer.table"]
    for other in (table.long(), table.to(torch.complex64), table.to(torch.float8_e4m3fn), table[:0], table[None]):
        save_file(weights | {"quantizer.table": other}, exported / native.WEIGHTS)
        with pytest.raises(
            ValueError, match="does not fit config.json: 'quantizer.table' (is|has the sizes)|a tensor of"
        ):
            vistok.load(exported)


def test_what_is_not_read_again_is_not_written(make_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="about makes 1,0[0-9]{2},[0-9]{3} bytes of JSON"):
        native.save(make_tokenizer(), tmp_path / "large", {"notes": "x" * 2**20})
    assert not (tmp_path / "large").exists()


def test_every_class_takes_what_is_described():
    none = (native.estimators.StraightThrough, native.estimators.CodewordGradient)
    assert all(native._arguments(part) for part in native.CLASSES.values() if part not in none)


def test_files_that_are_wrong(exported):
    weights = load_file(exported / native.WEIGHTS)
    save_file({key: tensor for key, tensor in weights.items() if "conv_in" not in key}, exported / native.WEIGHTS)
    with pytest.raises(ValueError, match="Missing key"):
        vistok.load(exported)
    (exported / native.WEIGHTS).write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="does not fit"):
        vistok.load(exported)
    (exported / native.CONFIG).write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        vistok.load(exported)
    (exported / native.CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match="it has no config.json"):
        vistok.load(exported)


def test_a_part_of_no_known_class(make_tokenizer, tmp_path):
    class Mine(torch.nn.Conv2d):
        pass

    tokenizer = make_tokenizer()
    tokenizer.to_latent = Mine(16, 4, 1)
    with pytest.raises(ValueError, match="Mine cannot be exported"):
        native.save(tokenizer, tmp_path / "not")
    assert not (tmp_path / "not").exists()
