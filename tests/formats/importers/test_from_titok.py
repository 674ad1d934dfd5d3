"""TiTok, its one-stage successors and One-D-Piece: the authors' codes and images, prefixes, and other sizes."""

import json

import pytest
import torch
from safetensors.torch import save_file

import vistok
from vistok.formats import families, native
from vistok.formats.importers import from_titok
from vistok.formats.importers.hyperparameters import Unknown
from vistok.formats.importers.key_map import to_ours
from vistok.quantizers import Context

from ...conftest import SHARED

GOLDEN = {"titok": 4, "titok_onestage": (4, 6), "tatitok": (4, 6), "one_d_piece": (4, 4)}  # attention heads


def heads(name):
    own = GOLDEN[name]
    return {"heads": own} if isinstance(own, int) else {"encoder": {"heads": own[0]}, "decoder": {"heads": own[1]}}


def context(io):
    return Context(text=io.get("text_guidance"))


@pytest.mark.parametrize("name", GOLDEN)
def test_the_authors_codes_and_images(family, tmp_path, name):
    weights, io = family(name)
    assert families.family_of(weights) == "titok"
    save_file(weights, tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "model.bin")
    least = heads(name) | ({} if name in ("titok", "one_d_piece") else {"use_l2_norm": False})
    everything = json.loads((SHARED / "golden" / f"{name}.json").read_text())["config"]
    for file, arguments in (("model.safetensors", {"config": least}), ("model.bin", {"config": everything})):
        tokenizer = vistok.load(tmp_path / file, family=name, **arguments)
        codes = tokenizer.tokenize(io["images"])
        assert torch.equal(codes[:, 0], io["codes"]) and tokenizer.grid(32, 32) == codes.shape[2:]
        with torch.no_grad():
            torch.testing.assert_close(tokenizer.encode(io["images"]), io["latent"], rtol=0, atol=2e-5)
            again, quantized = tokenizer(io["images"], context=context(io))
        torch.testing.assert_close(quantized.latent, io["quantized"], rtol=0, atol=2e-6)
        decoded = tokenizer.decode(tokenizer.lookup(codes), context=context(io))
        for images in (again, decoded):
            torch.testing.assert_close(images, io["reconstruction"], rtol=0, atol=4e-5)
        torch.testing.assert_close(
            tokenizer.detokenize(codes, context=context(io)), io["decoded_from_codes"].clamp(-1, 1), rtol=0, atol=4e-5
        )
    ours = vistok.load(native.save(tokenizer, tmp_path / "ours"))
    assert torch.equal(ours.tokenize(io["images"]), codes)
    assert torch.equal(ours.detokenize(codes, context=context(io)), tokenizer.detokenize(codes, context=context(io)))


def test_prefixes(family, tmp_path):
    """Fewer tokens, and hidden tokens, give the authors' images of a shorter latent."""
    weights, io = family("one_d_piece")
    save_file(weights, tmp_path / "model.safetensors")
    tokenizer = vistok.load(tmp_path / "model.safetensors", config=heads("one_d_piece"))
    codes = tokenizer.tokenize(io["images"])
    for n in (1, 2, 5, 9):
        keep = (torch.arange(12) < n).expand(4, 1, -1)
        with torch.no_grad():
            hidden = tokenizer.decode(tokenizer.lookup(codes), keep=keep)
        torch.testing.assert_close(hidden, io[f"reconstruction.n{n}"], rtol=0, atol=5e-5)
        short = tokenizer.detokenize(codes[..., :n])
        torch.testing.assert_close(short, io[f"reconstruction.n{n}"].clamp(-1, 1), rtol=0, atol=5e-5)


def test_a_first_stage(family, tmp_path):
    """Its logits; the tokenizer whose codes they are about is not in the file."""
    weights, io = family("one_d_piece_stage1")
    save_file(weights, tmp_path / "first.safetensors")
    with pytest.raises(ValueError, match="TiTok's first stage: its decoder predicts codes of another tokenizer"):
        vistok.load(tmp_path / "first.safetensors", config={"heads": 4})
    ours = to_ours(from_titok.RULES, weights)
    decoder = from_titok.decoder({name: tuple(own.shape) for name, own in ours.items()}, {"heads": 4}, logits=True)
    decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in ours.items() if k.startswith("decoder.")})
    with torch.no_grad():
        for suffix, n in (("", 10), (".n1", 1), (".n4", 4)):
            logits = decoder(io["quantized"][..., :n])
            torch.testing.assert_close(logits, io[f"decoder_logits{suffix}"], rtol=0, atol=2e-5)


def test_text_is_read_by_the_decoder_alone(family, tmp_path):
    weights, io = family("tatitok")
    save_file(weights, tmp_path / "model.safetensors")
    tokenizer = vistok.load(tmp_path / "model.safetensors", config=heads("tatitok") | {"use_l2_norm": False})
    codes = tokenizer.tokenize(io["images"][1:2])
    for text, name in ((torch.zeros(1, 6, 20), "zero"), (io["text_guidance"][2:3], "swapped")):
        images = tokenizer.detokenize(codes, context=Context(text=text))
        torch.testing.assert_close(images, io[f"reconstruction_text_{name}"].clamp(-1, 1), rtol=0, atol=4e-5)
    with pytest.raises(ValueError, match=r"reads text features \(1, 6, 20\) from Context\(text=...\): none were given"):
        tokenizer.detokenize(codes)
    with pytest.raises(ValueError, match=r"\(1, 6, 20\) from Context\(text=...\): not \(1, 5, 20\)"):
        tokenizer.detokenize(codes, context=Context(text=torch.zeros(1, 5, 20)))


def test_what_names_do_not_tell(family, tmp_path):
    weights, io = family("titok_onestage")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(Unknown, match=r"do not determine use_l2_norm"):
        vistok.load(tmp_path / "model.safetensors", config=heads("titok_onestage"))
    with pytest.raises(Unknown, match=r"do not determine encoder.heads: give config=\{'encoder': \{'heads': ...\}\}"):
        vistok.load(tmp_path / "model.safetensors", config={"use_l2_norm": False})
    tokenizer = vistok.load(tmp_path / "model.safetensors", config=heads("titok_onestage") | {"use_l2_norm": False})
    with pytest.raises(ValueError, match="image size 48x48 is not 32x32: 1-D tokens are learned for one size"):
        tokenizer.tokenize(torch.zeros(1, 3, 48, 48))
