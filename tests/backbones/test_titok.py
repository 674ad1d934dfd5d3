"""One-dimensional tokens: published sizes, and values by hand. For whole models see formats/importers."""

import pytest
import torch
from torch import nn

import vistok
from vistok import Tokenizer
from vistok import __main__ as command_line
from vistok.backbones import Decoder, ProxyPixels, TiTokDecoder, TiTokEncoder
from vistok.images.ranges import to_float, to_uint8
from vistok.quantizers import Context, VectorQuantizer
from vistok.tokens import TokenStore
from vistok.training import run

from ..conftest import compose

S, B, L = ({"width": w, "depth": d, "num_heads": h} for w, d, h in ((512, 8, 8), (768, 12, 12), (1024, 24, 16)))
OLD = {"dim": 12, "legacy": True}
PROXY = {"dim": 12, "out_channels": 1024, "head": "logits"}
TEXT = {"dim": 64, "text_dim": 768}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("encoder, decoder, tokens, counts, tensors", [  # arXiv:2406.07550, 1d-tokenizer's code
    (S | OLD, S | PROXY, 128, (25_818_636, 27_000_832), (107, 110)),
    (B | OLD, B | PROXY, 64, (85_904_652, 88_070_656), (155, 158)),
    (L | OLD, L | PROXY, 32, (303_410_188, 306_822_144), (299, 302)),
    (B | {"dim": 64}, L | {"dim": 64}, 64, (85_944_640, 303_498_068), (155, 302)),
    (B | {"dim": 64}, L | {"dim": 64}, 128, (85_993_792, 303_563_604), (155, 302)),
    (S | {"dim": 64}, L | {"dim": 64}, 256, (25_910_848, 303_694_676), (107, 302)),
    (B | {"dim": 64}, L | TEXT, 32, (85_944_640 - 32 * 768, 304_331_604), (155, 305)),  # TA-TiTok, arXiv:2501.07730
    (B | {"dim": 64}, L | TEXT, 128, (85_993_792, 304_429_908), (155, 305)),
    (S | OLD, S | PROXY, 256, (25_884_172, 27_066_368), (107, 110)),  # One-D-Piece, arXiv:2501.10064
])  # fmt: skip
def test_published_parameter_counts(encoder, decoder, tokens, counts, tensors):
    """They count the latent tokens apart from the encoder."""
    with torch.device("meta"):
        down, up = TiTokEncoder(**encoder, num_tokens=tokens), TiTokDecoder(**decoder, num_tokens=tokens)
    assert (parameters(down) - down.latent_tokens.numel(), parameters(up)) == counts
    assert (len(down.state_dict()) - 1, len(up.state_dict())) == tensors


def test_the_legacy_order_by_hand():
    """Two tokens of three channels, (1, 2, 3) and (4, 5, 6), read as three channels of two positions."""
    encoder = TiTokEncoder(dim=3, width=3, depth=0, num_heads=1, num_tokens=2, patch=2, image_size=2, legacy=True)
    with torch.no_grad():
        encoder.norm_in, encoder.norm_out = nn.Identity(), nn.Identity()
        encoder.latent_tokens.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
        encoder.latent_positions.zero_()
        encoder.conv_out.weight.copy_(torch.eye(3)[:, :, None, None])
        latent = encoder(torch.zeros(1, 3, 2, 2))
        assert torch.equal(latent[0, :, 0], torch.tensor([[1.0, 2], [3, 4], [5, 6]]))
        encoder.legacy = False
        assert torch.equal(encoder(torch.zeros(1, 3, 2, 2))[0, :, 0], torch.tensor([[1.0, 4], [2, 5], [3, 6]]))


def test_pixels_by_hand():
    """The decoder's mask tokens alone become pixels, ordered by row, column, channel."""
    decoder = TiTokDecoder(dim=1, width=12, depth=0, num_heads=1, num_tokens=2, patch=2, image_size=2)
    with torch.no_grad():
        decoder.norm_in, decoder.norm_out = nn.Identity(), nn.Identity()
        decoder.mask_token.copy_(torch.arange(12.0)[None])
        decoder.positions.zero_()
        decoder.hidden[0].weight.copy_(torch.eye(12)[:, :, None, None])
        decoder.conv_out.weight.zero_()
        decoder.conv_out.weight[:, :, 1, 1] = torch.eye(3)
        images = decoder(torch.ones(1, 1, 1, 2))
    assert torch.equal(images[0, 0], torch.tensor([[0.0, 3], [6, 9]]))
    assert torch.equal(images[0, 2], torch.tensor([[2.0, 5], [8, 11]]))


def test_hidden_tokens_are_not_read():
    torch.manual_seed(0)
    decoder = TiTokDecoder(4, 16, 2, 2, num_tokens=5, patch=4, image_size=8, text_dim=3, text_length=2)
    for p in decoder.parameters():
        nn.init.normal_(p, std=0.5)
    latent, text = torch.randn(2, 4, 1, 5), Context(text=torch.randn(2, 2, 3))
    keep = torch.tensor([[[True, True, False, True, False]], [[True, False, False, False, False]]])
    images = decoder(latent, keep=keep, context=text)
    changed = latent + 10 * ~keep[:, None]
    torch.testing.assert_close(decoder(changed, keep=keep, context=text), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(decoder(latent[1:, ..., :1], context=Context(text=text.text[1:])), images[1:])
    assert not torch.allclose(decoder(changed, context=text), images, atol=1e-2)


def test_a_latent_of_another_shape_is_refused():
    decoder = TiTokDecoder(4, 16, 1, 2, num_tokens=5, patch=4, image_size=8)
    with pytest.raises(ValueError, match="the latent is 1x6, not 1x5 or shorter"):
        decoder(torch.zeros(1, 4, 1, 6))
    with pytest.raises(ValueError, match="image size 16x8 is not 8x8: 1-D tokens are learned for one size"):
        decoder(torch.zeros(1, 4, 1, 5), size=(16, 8))


def test_proxy_pixels_by_hand():
    """Logits that are sure of one codeword decode it; equal logits decode the mean codeword."""

    class Same(Decoder):
        factor, dim, out_channels = 1, 3, 3

        def forward(self, latent, size=None, keep=None, context=Context()):
            return latent

    pixels = ProxyPixels(Same(), 2)
    with torch.no_grad():
        pixels.codewords.copy_(torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]))
    logits = torch.tensor([[100.0, 0.0], [0.0, 0.0]]).T[None, :, None]  # positions: sure of the first, undecided
    expected = torch.tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).T[None, :, None]
    torch.testing.assert_close(pixels.out(logits), expected)
    torch.testing.assert_close(pixels.into(torch.tensor([-1.0, 1.0])), torch.tensor([0.0, 1.0]))


def test_a_decoder_of_a_grid_is_refused(make_tokenizer):
    grid = make_tokenizer()
    encoder = TiTokEncoder(16, 16, 1, 2, num_tokens=5, patch=4, image_size=8)
    with pytest.raises(ValueError, match="the encoder gives 5 tokens in a row, but the decoder reads a grid"):
        Tokenizer(encoder, grid.quantizer, grid.decoder, grid.to_latent, grid.from_latent)


@pytest.mark.parametrize("head", ["vq_ema", "residual", "fsq"])
def test_training_to_tokens(tmp_path, head):
    """Train, validate, export, tokenize and read again, with the tokens of an image in a row."""
    sizes = ("width=16", "depth=1", "num_heads=2", "num_tokens=5", "patch=8", "dim=8")
    words = ["trainer=debug", "loss=l1", "data.image_size=32", "model.codebook_size=16", "model.latent_dim=4"]
    words += ["backbone=titok_s128", f"quantizer={head}", *(f"backbone.encoder.{size}" for size in sizes)]
    config = compose("train", *words)
    config.run.dir = str(tmp_path / "run")
    metrics = run.train(config, words)
    assert metrics["tokens"] == 5 * metrics["images"]
    tokenizer = vistok.load(tmp_path / "run")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert codes.shape[2:] == (1, 5) == tokenizer.quantizer.layout(*tokenizer.grid(32, 32)).positions
    assert tokenizer.detokenize(codes, (32, 32)).shape == images.shape
    torch.testing.assert_close(tokenizer.reconstruct(images)[0].clamp(-1, 1), tokenizer.detokenize(codes))


def test_tokens_on_disk(tmp_path, capsys):
    sizes = {"width": 16, "depth": 1, "num_heads": 2, "num_tokens": 5, "patch": 8, "image_size": 32}
    torch.manual_seed(0)
    tokenizer = Tokenizer(TiTokEncoder(8, **sizes), VectorQuantizer(16, 8), TiTokDecoder(8, **sizes)).eval()
    vistok.save(tokenizer, tmp_path / "tokenizer")
    images = torch.rand(6, 3, 32, 32) * 2 - 1
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        vistok.write_image(image[None], tmp_path / "images" / f"{i}.png")
    words = ["--images", str(tmp_path / "images"), "--image-size", "32", "--batch-size", "4", "--num-workers", "0"]
    command_line.main(["tokenize", str(tmp_path / "tokenizer"), *words, "--out", str(tmp_path / "tokens")])
    command_line.main(["tokens", "check", str(tmp_path / "tokens")])
    store = TokenStore(tmp_path / "tokens")
    codes = torch.stack([torch.from_numpy(store.view(i)[0]) for i in range(len(store))])
    assert codes.shape == (6, 1, 1, 5) and torch.equal(codes, tokenizer.tokenize(to_float(to_uint8(images))))
    torch.testing.assert_close(store.decode(tokenizer, codes).clamp(-1, 1), tokenizer.detokenize(codes))
    words = ["--size", "tiny", "--updates", "2", "--batch-size", "4", "--out", str(tmp_path / "probe.json")]
    command_line.main(["probe", str(tmp_path / "tokens"), *words])
    assert "bits" in capsys.readouterr().out
