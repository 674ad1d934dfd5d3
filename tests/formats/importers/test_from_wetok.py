"""WeTok and BitDance's autoencoder with both decoders: the authors' codes and images, other sizes, refusals."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import vistok
from vistok import Tokenizer, configuration
from vistok.backbones import MagvitDecoder, MagvitEncoder
from vistok.formats import families, native
from vistok.formats.exporters import to_published
from vistok.formats.importers import from_wetok
from vistok.formats.importers.hyperparameters import Unknown
from vistok.formats.importers.key_map import to_ours, to_theirs
from vistok.quantizers import BinaryQuantizer, SimVQ
from vistok.quantizers.base import Context
from vistok.training import run

from ...conftest import SHARED

GOLDEN = {  # file: what has to be given beside it
    "wetok": {"config": {"num_codebooks": 3}},
    "wetok_gan": {"config": {"num_codebooks": 2}},
    "bitdance_ae": {"family": "bitdance", "config": {"num_codebooks": 3}},
    "bitdance_ae_gan": {"config": {"num_codebooks": 4}},
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_authors_codes_and_images(family, tmp_path, name):
    weights, io = family(name)
    config = json.loads((SHARED / "golden" / f"{name}.json").read_text())["config"]
    save_file(weights, tmp_path / "ae.safetensors")
    torch.save({"state_dict": weights, "global_step": 3}, tmp_path / "last.ckpt")
    context = Context(noise=io.get("decoder_noise"))
    for file, arguments in (("ae.safetensors", GOLDEN[name]), ("last.ckpt", {"family": name, "config": config})):
        tokenizer = vistok.load(tmp_path / file, **arguments)
        with torch.no_grad():
            reconstruction, quantized = tokenizer(io["images"], context=context)
        assert torch.equal(quantized.codes, io["codes"])
        torch.testing.assert_close(reconstruction, io["reconstruction"], rtol=0, atol=2e-5)
        decoded = tokenizer.decode(tokenizer.lookup(io["codes"]), context=context)
        torch.testing.assert_close(decoded, io["decoded_from_codes"], rtol=0, atol=2e-5)
        if "bits" in io:
            assert torch.equal((tokenizer.lookup(io["codes"]) > 0).long(), io["bits"])
        assert torch.equal(tokenizer.fold().detokenize(io["codes"]), tokenizer.detokenize(io["codes"]))
    again = vistok.load(native.save(tokenizer, tmp_path / "ours"))
    assert torch.equal(again.tokenize(io["images"]), io["codes"])
    assert torch.equal(again.decode(again.lookup(io["codes"]), context=context), decoded)


def test_raw_weights(family, tmp_path):
    weights, io = family("wetok")
    save_file(weights, tmp_path / "model.safetensors")
    tokenizer = vistok.load(tmp_path / "model.safetensors", **GOLDEN["wetok"], weights="raw")
    assert torch.equal(tokenizer.tokenize(io["images"]), io["raw.codes"])
    decoded = tokenizer.decode(tokenizer.lookup(io["raw.codes"]))
    torch.testing.assert_close(decoded, io["raw.decoded_from_codes"], rtol=0, atol=2e-5)


def make(bits=24, codes=3, generative=False, channels=32, multipliers=(1, 2, 1), num_blocks=1, up=(2, 1, 3), more=1):
    torch.manual_seed(0)
    encoder = MagvitEncoder(channels, multipliers, num_blocks, bits)
    decoder = MagvitDecoder(channels, up, num_blocks + more, bits, adaptive=True, generative=generative)
    return Tokenizer(encoder, from_wetok.head(bits, codes), decoder).eval()


def published(tokenizer):
    """A tokenizer's tensors under the authors' names."""
    theirs = to_theirs(from_wetok.RULES, tokenizer.state_dict(), len(tokenizer.decoder.levels))
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


@pytest.mark.parametrize("generative", [False, True])
@pytest.mark.parametrize("arguments", [
    {"bits": 64, "codes": 2},
    {"bits": 12, "codes": 12, "multipliers": (3,), "up": (1,), "num_blocks": 2},
    {"bits": 128, "codes": 16, "channels": 64, "multipliers": (1, 1), "up": (1, 2)},
])  # fmt: skip
def test_other_sizes(tmp_path, arguments, generative):
    tokenizer = make(generative=generative, **arguments)
    theirs = published(tokenizer) | {"quantize.mask": torch.ones(1), "quantize.codebook": torch.ones(1)}
    torch.save({"state_dict": theirs}, tmp_path / "model.ckpt")
    loaded = vistok.load(tmp_path / "model.ckpt", family="wetok", config={"num_codebooks": arguments["codes"]})
    assert native.describe(loaded) == native.describe(tokenizer)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert torch.equal(loaded.tokenize(images), codes) and len(codes.unique()) > 1
    assert torch.equal(loaded.detokenize(codes), tokenizer.detokenize(codes))


@pytest.mark.parametrize(
    "name, layout",
    [
        ("wetok", "wetok"),
        ("wetok_gan", "wetok"),
        ("bitdance_ae", "bitdance"),
        ("bitdance_ae_gan", "bitdance"),
    ],
)
def test_golden_files_come_back(family, tmp_path, name, layout):
    weights, io = family(name)
    save_file(weights, tmp_path / "ae.safetensors")
    tokenizer = vistok.load(tmp_path / "ae.safetensors", **GOLDEN[name])
    to_published.save(tokenizer, tmp_path / "out", family=layout)
    if layout == "wetok":
        again = torch.load(tmp_path / "out" / "model.ckpt")["state_dict"]
    else:
        again = load_file(tmp_path / "out" / "ae.safetensors")
    names = {own for own in weights if not own.startswith("model_ema.")}
    if layout == "wetok":  # in a file of the generative decoder too, although this golden one has no averages
        names |= {f"model_ema.{own.replace('.', '')}" for own in names} | {"model_ema.decay", "model_ema.num_updates"}
    assert again.keys() == names
    for own, tensor in weights.items():
        expected = weights.get(f"model_ema.{own.replace('.', '')}", tensor)
        assert again[own].dtype == tensor.dtype and torch.equal(again[own], expected), own


@pytest.mark.parametrize("generative", [False, True])
@pytest.mark.parametrize("layout", ["wetok", "bitdance"])
def test_written(tmp_path, layout, generative):
    tokenizer = make(64, 2, generative, multipliers=(3, 1), up=(3, 1), more=0)
    to_published.save(tokenizer, tmp_path / "out", family=layout)
    if layout == "wetok":
        file, settings = "model.ckpt", yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
        settings = settings["model"]["init_args"]
        assert (settings["n_embed"], settings["num_codebooks"], settings["use_ema"]) == (2**32, 2, True)
        theirs = torch.load(tmp_path / "out" / file)["state_dict"]  # the authors evaluate the averages
        assert torch.equal(theirs["model_ema.decoderconv_inweight"], tokenizer.decoder.conv_in.weight)
    else:
        file, settings = "ae.safetensors", json.loads((tmp_path / "out" / "ae_config.json").read_text())
        assert settings.keys() == {"ddconfig", "gan_decoder"}
    assert settings["gan_decoder"] == generative
    sizes = {"z_channels": 64, "ch": 32, "ch_mult": [3, 1], "num_res_blocks": 1, "in_channels": 3, "out_ch": 3}
    assert settings["ddconfig"] | sizes == settings["ddconfig"]
    loaded = vistok.load(tmp_path / "out" / file, layout, {**settings, "num_codebooks": 2})
    assert native.describe(loaded) == native.describe(tokenizer)
    assert native.describe(vistok.load(tmp_path / "out")) == native.describe(tokenizer)  # without arguments


@pytest.mark.parametrize("change, message", [
    ({"quantizer": BinaryQuantizer(24)}, "a BinaryQuantizer, only for a BinaryQuantizer with spherical=False"),
    ({"decoder": MagvitDecoder(32, (1, 2, 1), 1, 24)}, "a decoder without adaptive norms"),
    ({"decoder": MagvitDecoder(32, (1, 2, 1), 2, 24, adaptive=True)}, "num_blocks=1 in the encoder, 2 in the decoder"),
    ({"decoder": MagvitDecoder(32, (2, 2, 1), 1, 24, adaptive=True)}, "levels of .* channels in the encoder"),
])  # fmt: skip
def test_what_is_not_written(tmp_path, change, message):
    tokenizer = make(up=(1, 2, 1), more=0)
    for name, value in change.items():
        setattr(tokenizer, name, value)
    with pytest.raises(ValueError, match=f"BitDance's layout cannot represent .*{message}"):
        to_published.save(tokenizer, tmp_path / "out", family="bitdance")


@pytest.mark.parametrize("layout, head, adaptive", [
    ("openmagvit2", BinaryQuantizer(18, spherical=False), True),
    ("simvq", SimVQ(40, 18), False),
])  # fmt: skip
def test_noise_has_no_place_in_other_layouts(tmp_path, layout, head, adaptive):
    decoder = MagvitDecoder(32, (1, 2), 1, 18, adaptive=adaptive, generative=True)
    with pytest.raises(ValueError, match="represent (a generative decoder|adaptive norms or noise)"):
        to_published.save(Tokenizer(MagvitEncoder(32, (1, 2), 1, 18), head, decoder), tmp_path / "out", family=layout)


@pytest.mark.parametrize("multipliers, bits, generative, counts", [
    ((1, 1, 2, 2, 4), 32, False, (198_935_328, 261_358_851)),  # ratio 192
    ((1, 2, 2, 4), 32, False, (193_622_560, 254_258_947)),  # 48
    ((1, 1, 2, 2, 4, 8), 32, True, (720_160_544, 953_518_339)),  # 768
    ((1, 1, 2, 2, 4), 256, False, None),  # BitDance's, of which the counts are not published
])  # fmt: skip
def test_published_sizes_need_nothing(multipliers, bits, generative, counts):
    """The whole models, without their numbers."""
    size = {"channels": 256, "multipliers": multipliers, "num_blocks": 4, "dim": bits}
    with torch.device("meta"):
        decoder = MagvitDecoder(**size, adaptive=True, generative=generative)
        head = BinaryQuantizer(bits, spherical=False, num_codebooks=bits // 8)
        model = Tokenizer(MagvitEncoder(**size), head, decoder)
        parts = (model.encoder, model.decoder)
        assert counts is None or tuple(sum(p.numel() for p in part.parameters()) for part in parts) == counts
        theirs = to_theirs(from_wetok.RULES, model.state_dict(), len(multipliers))
        assert families.family_of(theirs) == "wetok"
        ours = to_ours(from_wetok.RULES, theirs, len(multipliers))
        built = from_wetok.build({name: tuple(t.shape) for name, t in ours.items()}, {}, False)
    assert built.quantizer.num_codebooks == bits // 8 and built.decoder.generative == generative


@pytest.mark.parametrize("arguments, given, message", [
    ({}, {}, "Open-MAGVIT2, WeTok and BitDance have the same names.*'openmagvit2'.*'wetok' .*'num_codebooks'"),
    ({"generative": True}, {}, "24 bits .* of 8: give config=.*'num_codebooks': ...}, one of 1, 2, 3, 4, 6, 8, 12, 24"),
    ({}, {"family": "bitdance"}, "give config=.*'num_codebooks'"),
    ({}, {"family": "wetok", "config": {"num_codebooks": 5}}, "num_codebooks=5 must be one of 1, 2, 3, 4, 6, 8, 12"),
    ({"bits": 64, "codes": 2}, {"family": "wetok", "config": {"num_codebooks": 1}}, "must be one of 2, 4, 8, 16, 32"),
    ({}, {"family": "wetok", "config": {"num_codebooks": 3, "n_embed": 16}}, "n_embed=16 cannot be imported, only 256"),
    ({}, {"family": "wetok", "config": {"num_codebooks": 3, "gan_decoder": True}}, "gan_decoder=True cannot be"),
    ({}, {"family": "openmagvit2", "config": {"num_codebooks": 3}}, "num_codebooks=3 cannot be imported, only 1"),
])  # fmt: skip
def test_refusals(tmp_path, arguments, given, message):
    save_file(published(make(**arguments)), tmp_path / "ae.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        vistok.load(tmp_path / "ae.safetensors", **given)
    assert isinstance(caught.value, Unknown) == ("num_codebooks" not in given.get("config", {}))


SMALL = ["trainer=debug", "backbone=openmagvit2_f8", "backbone.encoder.channels=32",
         "backbone.encoder.multipliers=[1,1]",
         "backbone.encoder.num_blocks=1", "backbone.encoder.dim=16", "model.latent_dim=16", "quantizer=lfq",
         "loss=l1", "quantizer.num_codebooks=4", "quantizer.pooled=true", "+backbone.decoder.generative=true",
         "data.image_size=16", "tokenizer.to_latent=null", "tokenizer.from_latent=null", "optimizer.lr=0",
         "model.family_config={num_codebooks: 4}"]  # fmt: skip


def test_training_goes_on(compose, tmp_path):
    """A generative decoder trains on fresh noise and is validated and exported with the noise of evaluation."""
    tokenizer = configuration.instantiate(compose("train", *SMALL).tokenizer).eval()
    save_file(published(tokenizer), tmp_path / "ae.safetensors")
    overrides = [*SMALL, f"model.init={tmp_path}/ae.safetensors", f"run.dir={tmp_path}/run"]
    run.train(compose("train", *overrides), overrides)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    trained = vistok.load(tmp_path / "run")
    codes = tokenizer.tokenize(images)
    assert torch.equal(trained.tokenize(images), codes)
    assert torch.equal(trained.detokenize(codes), tokenizer.detokenize(codes))
