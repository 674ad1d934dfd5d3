"""The tokenizer: its maps between pixels, latents and codes."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from vistok import PixelMap, Tokenizer, configuration
from vistok.backbones import (
    BranchedEncoder,
    CNNDecoder,
    CNNEncoder,
    HierarchicalEncoder,
    MagvitDecoder,
    MagvitEncoder,
    PositionalDecoder,
    ViTDecoder,
    ViTEncoder,
)
from vistok.formats import native
from vistok.quantizers import SimVQ, VectorQuantizer
from vistok.tokenizer import fingerprint

SIZE = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (), "dim": 16}


@pytest.mark.parametrize("height, width", [(32, 32), (16, 40), (8, 4)])
def test_codes_are_the_whole_image(make_tokenizer, height, width):
    tokenizer = make_tokenizer().eval()
    images = torch.rand(2, 3, height, width) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert codes.shape == (2, 1, height // 4, width // 4)
    reconstruction, quantized = tokenizer(images)
    assert torch.equal(codes, quantized.codes)
    torch.testing.assert_close(tokenizer.detokenize(codes), reconstruction.clamp(-1, 1), rtol=0, atol=1e-4)


def test_patches():
    size = SIZE | {"patch": 4}
    tokenizer = Tokenizer(CNNEncoder(**size), VectorQuantizer(8, 16), CNNDecoder(**size)).eval()
    images = torch.rand(1, 3, 16, 24) * 2 - 1
    assert tokenizer.factor == 8 and tokenizer.tokenize(images).shape == (1, 1, 2, 3)
    assert tokenizer(images).reconstruction.shape == images.shape


def test_detokenize_clamps_and_decode_does_not(make_tokenizer):
    tokenizer = make_tokenizer().eval()
    nn.init.constant_(tokenizer.decoder.conv_out.bias, 5.0)
    codes = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    assert tokenizer.detokenize(codes).max() == 1
    assert tokenizer.decode(tokenizer.quantizer.lookup(codes)).max() > 1


@pytest.mark.parametrize("cosine", [False, True])
def test_fold_shares_the_networks_and_keeps_the_codes(make_tokenizer, cosine):
    tokenizer = make_tokenizer(cosine=cosine).eval()
    folded = tokenizer.fold()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert folded is not tokenizer and folded.encoder is tokenizer.encoder and not folded.training
    assert torch.equal(folded.tokenize(images), tokenizer.tokenize(images))
    assert torch.equal(folded(images).reconstruction, tokenizer(images).reconstruction)


def test_the_fingerprint_is_that_of_the_export(tmp_path):
    tokenizer = Tokenizer(CNNEncoder(**SIZE), SimVQ(32, 16), CNNDecoder(**SIZE)).eval()
    exported = native.load(native.save(tokenizer, tmp_path / "export"))
    assert fingerprint(tokenizer) == fingerprint(tokenizer.fold()) == fingerprint(exported)


def test_the_fingerprint_tells_weights_and_pixels(make_tokenizer):
    tokenizer = make_tokenizer().eval()
    first = fingerprint(tokenizer)
    with torch.no_grad():
        tokenizer.decoder.conv_out.bias[0] += 1
    second = fingerprint(tokenizer)
    tokenizer.pixels = PixelMap(0.5, 0.5)
    assert len({first, second, fingerprint(tokenizer), fingerprint(tokenizer, {"table": torch.zeros(2)})}) == 4


def test_a_fingerprint_by_hand():
    """Files hold it, so it stays as it is."""
    head = VectorQuantizer(2, 2)
    with torch.no_grad():
        head.codewords.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    bare = nn.Module()
    bare.quantizer, bare.pixels, bare.w = head, PixelMap(), nn.Parameter(torch.tensor([1.0, -2.0]))
    stored = {name: (str(own.dtype)[6:], own.numpy()) for name, own in head.state_dict(prefix="quantizer.").items()}
    text = b"PixelMap(scale=1.0, shift=0.0)"
    for name, (dtype, values) in sorted(stored.items()) + [("w", ("float32", np.float32([1, -2])))]:
        text += f"{name} {dtype} {values.shape}".encode() + values.tobytes()
    assert fingerprint(bare) == hashlib.sha256(text).hexdigest()


def test_pixel_map():
    """A network of [0, 1] sees the images there, and its output comes back to [-1, 1]."""
    tokenizer = Tokenizer(CNNEncoder(**SIZE), VectorQuantizer(8, 16), CNNDecoder(**SIZE), pixels=PixelMap(0.5, 0.5))
    seen = []
    tokenizer.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.tensor([-1.0, 0.0, 1.0, 1.0]).reshape(1, 1, 2, 2).expand(2, 3, 2, 2)
    tokenizer.encode(images)
    assert seen[0][0, 0].flatten().tolist() == [0.0, 0.5, 1.0, 1.0]
    latent = torch.randn(2, 16, 2, 2)
    torch.testing.assert_close(tokenizer.decode(latent), tokenizer.decoder(latent) * 2 - 1)


def test_a_size_that_the_factor_does_not_divide(make_tokenizer):
    with pytest.raises(ValueError, match="image size 30x32 is not a multiple of the tokenizer's factor 4"):
        make_tokenizer().tokenize(torch.zeros(1, 3, 30, 32))


@pytest.mark.parametrize("maps, message", [
    ((None, nn.Conv2d(8, 16, 1)), "encoder.dim is 16 but quantizer.dim is 8: to_latent must map"),
    ((nn.Conv2d(16, 8, 1), None), "quantizer.dim is 8 but decoder.dim is 16: from_latent must map"),
    ((nn.Conv2d(12, 8, 1), nn.Conv2d(8, 16, 1)), "to_latent maps 12 to 8 channels, but encoder.dim is 16"),
])  # fmt: skip
def test_widths_that_disagree(maps, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(CNNEncoder(**SIZE), VectorQuantizer(8, 8), CNNDecoder(**SIZE), *maps)


def test_factors_that_disagree():
    with pytest.raises(ValueError, match="the encoder shrinks by 2, but the decoder enlarges by 4"):
        Tokenizer(CNNEncoder(**SIZE), VectorQuantizer(8, 16), CNNDecoder(**SIZE | {"multipliers": (1, 1, 1)}))


def agrees_in(dtype, tokenizer, size=32):
    """Everything that a tokenizer does, after ``to(dtype)``: close to what it does in float32, codes int64."""
    images = torch.rand(2, 3, size, size) * 2 - 1
    with torch.no_grad():
        expected = tokenizer.eval()(images)
        tokenizer.to(dtype)
        for own in (tokenizer, tokenizer.fold()):
            codes = own.tokenize(images.to(dtype))
            assert codes.dtype == torch.int64 and torch.equal(own.tokenize(images), own.tokenize(images.to(dtype)))
            assert (codes == expected.quantized.codes).float().mean() > 0.8
            reconstruction, quantized = own(images.to(dtype))
            assert reconstruction.dtype == dtype and quantized.latent.dtype == torch.float32
            assert torch.equal(own.quantizer.lookup(codes), quantized.latent)
            torch.testing.assert_close(own.detokenize(codes), reconstruction.clamp(-1, 1), rtol=0, atol=0.05)
            assert own.encode(images).dtype == dtype and own.decode(quantized.latent.to(dtype)).dtype == dtype
            assert (reconstruction.float() - expected.reconstruction).abs().mean() < 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", [
    *("quantizer=bsq", "quantizer=lfq", "quantizer=dqvae", "quantizer=fq", "quantizer=simvq", "quantizer=vq"),
    *("quantizer=vq_cosine", "quantizer=vq_ema", "quantizer=vqbridge", "quantizer=dqvae_triple"),
])  # fmt: skip
def test_every_head_in_half_precision(compose, head, dtype):
    torch.manual_seed(0)
    words = (
        "trainer=debug",
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "model.latent_dim=4",
        "model.codebook_size=16",
        head,
    )
    agrees_in(dtype, configuration.instantiate(compose("train", *words).tokenizer))


CNN = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "dim": 8}
VIT = {"dim": 8, "depth": 1, "num_heads": 2, "head_dim": 4, "patch": 4, "image_size": 16}


@pytest.mark.parametrize("encoder, decoder", [
    (CNNEncoder(**CNN, attention=(1,)), CNNDecoder(**CNN, attention=(1,))),
    (MagvitEncoder(**CNN), MagvitDecoder(**CNN)),
    (ViTEncoder(**VIT), ViTDecoder(**VIT)),  # learned positions, interpolated
    (ViTEncoder(**VIT, positions="sincos", pre_norm=True), ViTDecoder(**VIT, positions="sincos")),
    (BranchedEncoder(**CNN, attention=(), grid=8, depth=1, heads=2), CNNDecoder(**CNN, attention=())),
    (HierarchicalEncoder(**CNN | {"multipliers": (1, 2, 2)}, attention=()),
     PositionalDecoder(CNNDecoder(**CNN, attention=()), dim=8, grid=8)),
])  # fmt: skip
def test_every_backbone_in_bfloat16(encoder, decoder):
    torch.manual_seed(0)
    agrees_in(torch.bfloat16, Tokenizer(encoder, VectorQuantizer(8, 8), decoder))


@pytest.mark.parametrize("head", ["vq", "lfq", "fq", "simvq", "dqvae"])
def test_codes_of_any_whole_numbers(compose, head):
    """Token files hold uint16."""
    words = (
        "trainer=debug",
        "backbone=cnn_f8_small",
        "backbone.encoder.channels=8",
        "model.latent_dim=4",
        "model.codebook_size=16",
        f"quantizer={head}",
    )
    tokenizer = configuration.instantiate(compose("train", *words).tokenizer).eval()
    codes = tokenizer.tokenize(torch.rand(1, 3, 32, 32) * 2 - 1)
    images = tokenizer.detokenize(codes)
    for dtype in (torch.uint16, torch.uint8, torch.int16, torch.int32, torch.uint32):
        assert torch.equal(tokenizer.detokenize(codes.to(dtype)), images)
    assert torch.equal(tokenizer.detokenize(codes.numpy().astype(np.uint16)), images)
    for wrong, called in ((codes.float(), "float32"), (codes.bool(), "bool")):
        with pytest.raises(ValueError, match=f"codes are {called}, not integers"):
            tokenizer.detokenize(wrong)
    with pytest.raises(ValueError, match="images are uint8, not floats in"):
        tokenizer.tokenize(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("height, width", [(13, 10), (16, 9), (3, 21)])
def test_other_sizes_are_padded_and_cropped_back(make_tokenizer, height, width):
    tokenizer = make_tokenizer().eval()
    images = torch.rand(2, 3, height, width) * 2 - 1
    reconstruction, emitted = tokenizer.reconstruct(images)
    h, w = -(-height // 4), -(-width // 4)
    assert tokenizer.padded_size(height, width) == (4 * h, 4 * w) and emitted.codes.shape == (2, 1, h, w)
    below, right = 4 * h - height, 4 * w - width
    whole = nn.functional.pad(images, (0, right, 0, below), mode="replicate")
    assert torch.equal(emitted.codes, tokenizer.tokenize(whole))
    assert torch.equal(reconstruction, tokenizer.reconstruct(whole)[0][..., :height, :width])
    with pytest.raises(ValueError, match=f"image size {height}x{width} is not a multiple"):
        tokenizer.tokenize(images)  # codes alone would not tell the size


def test_sizes_of_whole_patches_are_not_padded(make_tokenizer):
    tokenizer = make_tokenizer().eval()
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    reconstruction, emitted = tokenizer.reconstruct(images)
    assert tokenizer.padded_size(16, 24) == (16, 24)
    assert torch.equal(reconstruction, tokenizer.decode(tokenizer.lookup(tokenizer.tokenize(images))))


def test_heads_and_encoders_decide_what_is_padded_to(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.quantizer.grid_multiple = 4  # as of a dynamic head
    assert tokenizer.padded_size(17, 16) == (32, 16) and tokenizer.padded_size(1, 33) == (16, 48)

    def fixed(height, width):
        if (height, width) != (64, 48):
            raise ValueError(f"image size {height}x{width} is not 64x48, the only size of these positions")
        return 16, 12

    tokenizer.encoder.grid = fixed
    assert tokenizer.padded_size(64, 48) == (64, 48) and tokenizer.padded_size(50, 40) == (64, 48)
    message = "images of 65x48 cannot be padded to a size that the tokenizer accepts: image size 80x48 is not 64x48"
    with pytest.raises(ValueError, match=message):
        tokenizer.padded_size(65, 48)
