"""ViT-VQGAN's networks: published sizes, the outputs of the authors' own code, positions, and company with CNNs."""

import re

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from omegaconf import OmegaConf

import vistok
from vistok import PixelMap, Tokenizer, configuration
from vistok.backbones import CNNDecoder, CNNEncoder, ViTDecoder, ViTEncoder
from vistok.backbones.vit import LearnedPositions, SinCosPositions
from vistok.formats import native
from vistok.quantizers import VectorQuantizer
from vistok.training import run

SIZE = {"dim": 16, "depth": 2, "num_heads": 2, "head_dim": 4, "mlp_ratio": 2, "patch": 4, "image_size": 16}
ENHANCING = {"positions": "sincos", "activation": "tanh", "qkv_bias": False, "output_mlp_ratio": None}
CNN = {"channels": 8, "multipliers": (1, 1, 1), "num_blocks": 1, "attention": (), "dim": 12}
SMALL = ["dim=32", "depth=1", "num_heads=1"]


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("backbone, encoder, decoder", [
    ("vit_clip_b8", 85_991_424, 88_796_352),
    ("vit_enhancing_s8", 25_830_912 - 1024 * 512, 25_830_403 - 1024 * 512),  # their fixed positions are in the counts
    ("vit_enhancing_b8", 85_963_008 - 1024 * 768, 85_962_243 - 1024 * 768),
    ("vit_s8", 27_942_912, 27_188_416),  # ours from here on; the paper says 32 M,
    ("vit_b8", 90_713_088, 88_794_816),  # 91 M,
    ("vit_sl8", 27_942_912, 596_565_696),  # and 599 M
])  # fmt: skip
def test_parameter_counts(compose, backbone, encoder, decoder):
    config = compose("train", f"backbone={backbone}", "data.image_size=256")
    with torch.device("meta"):
        tokenizer = configuration.instantiate(config.tokenizer)
        assert (parameters(tokenizer.encoder), parameters(tokenizer.decoder)) == (encoder, decoder)
        assert tokenizer.encode(torch.empty(1, 3, 256, 256)).shape == (1, 16, 32, 32)


@pytest.mark.parametrize("variant", [{}, ENHANCING, {"pre_norm": True}, {"checkpoint": True}])
@pytest.mark.parametrize("height, width", [(16, 16), (8, 20)])
def test_shapes(variant, height, width):
    encoder, decoder = ViTEncoder(**SIZE, **variant), ViTDecoder(**SIZE, **variant, out_channels=6)
    latent = encoder(torch.randn(2, 3, height, width))
    assert latent.shape == (2, 16, height // 4, width // 4) and (encoder.factor, encoder.dim) == (4, 16)
    output = decoder(latent)
    assert output.shape == (2, 6, height, width)
    output.square().mean().backward()
    unused = [name for part in (encoder, decoder) for name, p in part.named_parameters() if p.grad is None]
    assert not unused and decoder.last_layer is decoder.conv_out.weight


def test_checkpointing_changes_nothing_but_memory():
    torch.manual_seed(0)
    plain, frugal = ViTEncoder(**SIZE), ViTEncoder(**SIZE, checkpoint=True)
    frugal.load_state_dict(plain.state_dict())
    images, held = torch.randn(2, 3, 16, 16), []
    for encoder in (plain, frugal):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            output = encoder(images)
        output.square().sum().backward()
        held.append(sum(sizes))
    assert held[1] < 0.7 * held[0]
    for (name, one), other in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)


def test_a_token_is_at_its_place():
    """Without attention an image's patch reaches its own latent position and its own pixels only."""
    torch.manual_seed(0)
    encoder, decoder = ViTEncoder(**SIZE | {"depth": 0}), ViTDecoder(**SIZE | {"depth": 0})
    images = torch.randn(1, 3, 16, 16)
    changed = images.clone()
    changed[:, :, 4:8, 12:16] += 1  # row 1, column 3
    moved = (encoder(changed) - encoder(images)).abs().sum(1)[0] > 1e-6
    assert moved.nonzero().tolist() == [[1, 3]]
    moved = (decoder(encoder(changed)) - decoder(encoder(images))).abs().sum(1)[0] > 1e-6
    assert moved[4:8, 12:16].all() and moved.sum() == 16


def test_sincos_positions_by_hand():
    positions = SinCosPositions(8, side=4)(torch.empty(1, 8, 4, 4))
    x, y, slow = torch.tensor(3.0), torch.tensor(1.0), 0.01  # column, row, the second frequency
    expected = [
        x.sin(),
        (slow * x).sin(),
        x.cos(),
        (slow * x).cos(),
        y.sin(),
        (slow * y).sin(),
        y.cos(),
        (slow * y).cos(),
    ]
    torch.testing.assert_close(positions[:, 1, 3], torch.stack(expected))


@pytest.mark.parametrize("height, width", [(12, 4), (4, 20)])
def test_positions_of_other_grids(height, width):
    """The same field, sampled at the centres of the other grid's cells."""
    other = torch.empty(1, 8, height, width)
    rows = (torch.arange(height) + 0.5) * 4 / height - 0.5
    columns = (torch.arange(width) + 0.5) * 4 / width - 0.5
    sincos = SinCosPositions(8, side=4)(other)
    torch.testing.assert_close(sincos[4], rows.sin()[:, None].expand(height, width))
    torch.testing.assert_close(sincos[0], columns.sin().expand(height, width))
    learned = LearnedPositions(8, side=4)
    centres = learned(other)[:, height // 8 :: height // 4, width // 8 :: width // 4]  # where cells' centres agree
    torch.testing.assert_close(centres, learned.table)
    assert learned(torch.empty(1, 8, 4, 4)) is learned.table


@pytest.mark.parametrize("arguments, message", [
    ({"positions": "rotary"}, "positions must be one of learned, sincos, not 'rotary'"),
    ({"activation": "relu"}, "activation must be one of gelu, tanh, not 'relu'"),
    ({"image_size": 18}, "image_size=18 is not a multiple of patch=4"),
    ({"positions": "sincos", "dim": 18}, "dim to be a multiple of 4, not 18"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    for part in (ViTEncoder, ViTDecoder):
        with pytest.raises(ValueError, match=message):
            part(**SIZE | arguments)


def from_published(weights, names):
    """Tensors under our names; ``names`` are pairs of a pattern of theirs and our replacement."""
    ours = {}
    for key, tensor in weights.items():
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        ours[key] = tensor
    return ours


FROM_ENHANCING = (
    (r"to_patch_embedding\.0", "conv_in"),
    (r"to_pixel\.1", "conv_out"),
    (r"layers\.(\d+)\.0\.norm", r"blocks.\1.norm1"),
    (r"layers\.(\d+)\.1\.norm", r"blocks.\1.norm2"),
    (r"layers\.(\d+)\.0\.fn\.to_(qkv|out)", r"blocks.\1.attention.\2"),
    (r"layers\.(\d+)\.1\.fn\.net\.0", r"blocks.\1.mlp_in"),
    (r"layers\.(\d+)\.1\.fn\.net\.2", r"blocks.\1.mlp_out"),
    (r"transformer\.norm", "transformer.norm_out"),
    (r"^pre_quant", "to_latent"),
    (r"^post_quant", "from_latent"),
    (r"quantizer\.embedding\.weight", "quantizer.table"),
)


def test_enhancing_transformers(family, close):
    weights, io = family("enhancing_vitvqgan")
    size = SIZE | {"dim": 64, "head_dim": 64, "patch": 8, "image_size": 32}
    tokenizer = Tokenizer(
        ViTEncoder(**size, **ENHANCING),
        VectorQuantizer(96, 16, cosine=True, raw_gradient=True),
        ViTDecoder(**size, **ENHANCING),
        torch.nn.Conv2d(64, 16, 1),
        torch.nn.Conv2d(16, 64, 1),
        PixelMap(0.5, 0.5),
    ).eval()
    for side, part in (("encoder.en", tokenizer.encoder), ("decoder.de", tokenizer.decoder)):
        theirs = rearrange(weights.pop(f"{side}_pos_embedding"), "1 (h w) d -> d h w", h=4)
        torch.testing.assert_close(part.transformer.positions(torch.empty(1, 64, 4, 4)), theirs, rtol=0, atol=1e-6)
    ours = from_published(weights, FROM_ENHANCING)
    ours |= {name: ours[name][..., None, None] for name in ("to_latent.weight", "from_latent.weight")}
    tokenizer.load_state_dict(ours)

    def grid(tokens):
        return rearrange(tokens, "b (h w) d -> b d h w", h=4)

    with torch.no_grad():
        close(tokenizer.encode(io["images"]), grid(io["latent"]))
        reconstruction, quantized = tokenizer(io["images"])
        assert torch.equal(quantized.codes.flatten(1), io["codes"])
        close(quantized.latent, grid(io["quantized"]))
        torch.testing.assert_close(reconstruction, io["reconstruction"], rtol=0, atol=1e-4)
        from_codes = tokenizer.decode(tokenizer.quantizer.lookup(io["codes"].reshape(4, 1, 4, 4)))
        torch.testing.assert_close(from_codes, io["decoded_from_codes"], rtol=0, atol=1e-4)


FROM_BSQVIT = (
    (r"conv1", "conv_in"),
    (r"ln_pre", "transformer.norm_in"),
    (r"ln_post", "transformer.norm_out"),
    (r"positional_embedding", "transformer.positions.table"),
    (r"resblocks", "blocks"),
    (r"\.ln_(\d)", r".norm\1"),
    (r"attn\.in_proj_", "attention.qkv."),
    (r"attn\.out_proj", "attention.out"),
    (r"mlp\.c_fc", "mlp_in"),
    (r"mlp\.c_proj", "mlp_out"),
    (r"ffn\.0", "hidden.0"),
)


def test_bsqvit(family, close):
    """All but the head, which the golden latents stand in for."""
    weights, io = family("bsqvit")
    ours = from_published(weights, FROM_BSQVIT)
    for name in ("encoder", "decoder"):
        ours[f"{name}.transformer.positions.table"] = rearrange(
            ours[f"{name}.transformer.positions.table"], "(h w) d -> d h w", h=4
        )
    ours["encoder.conv_in.weight"] = rearrange(ours["encoder.conv_in.weight"], "d (c p q) -> d c p q", p=8, q=8)
    for name in ("decoder.hidden.0.weight", "decoder.conv_out.weight"):
        ours[name] = ours[name][..., None, None]
    size = SIZE | {"dim": 64, "num_heads": 4, "head_dim": 16, "mlp_ratio": 4, "patch": 8, "image_size": 32}
    encoder = ViTEncoder(**size, pre_norm=True, output_mlp_ratio=None)
    decoder = ViTDecoder(**size, pre_norm=True, output_mlp_ratio=2)
    for name, part in (("encoder.", encoder), ("decoder.", decoder)):
        part.load_state_dict({k.removeprefix(name): tensor for k, tensor in ours.items() if k.startswith(name)})
    with torch.no_grad():
        tokens = rearrange(encoder(io["images"]), "b d h w -> b (h w) d")
        latent = F.linear(tokens, weights["quant_embed.weight"], weights["quant_embed.bias"])
        close(latent, io["latent_unnormalised"])
        close(F.normalize(latent, dim=-1), io["latent"])
        tokens = F.linear(io["quantized"], weights["post_quant_embed.weight"], weights["post_quant_embed.bias"])
        output = decoder(rearrange(tokens, "b (h w) d -> b d h w", h=4))
        torch.testing.assert_close(output, io["decoder_output"], rtol=0, atol=1e-4)
        torch.testing.assert_close(output.clamp(-1, 1), io["reconstruction"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("encoder, decoder", [
    (ViTEncoder(**SIZE), CNNDecoder(**CNN)),
    (CNNEncoder(**CNN), ViTDecoder(**SIZE)),
    (ViTEncoder(**SIZE, **ENHANCING), ViTDecoder(**SIZE | {"dim": 8}, pre_norm=True)),
])  # fmt: skip
def test_with_a_cnn_on_the_other_side(encoder, decoder, tmp_path):
    """A step lowers the loss, and the export comes back the same."""
    torch.manual_seed(0)
    head = VectorQuantizer(16, 6)
    to_latent, from_latent = torch.nn.Conv2d(encoder.dim, 6, 1), torch.nn.Conv2d(6, decoder.dim, 1)
    tokenizer = Tokenizer(encoder, head, decoder, to_latent, from_latent)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-3)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    losses = []
    for _ in range(5):
        reconstruction, quantized = tokenizer(images)
        losses.append(F.mse_loss(reconstruction, images) + sum(quantized.losses.values()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(p.grad.abs().sum() > 0 for p in (encoder.conv_in.weight, decoder.last_layer))
    tokenizer.eval()
    loaded = vistok.load(native.save(tokenizer, tmp_path))
    codes = tokenizer.tokenize(images)
    assert torch.equal(loaded.tokenize(images), codes)
    assert torch.equal(loaded.detokenize(codes), tokenizer.detokenize(codes))


@pytest.mark.parametrize("size", ["ss", "bb", "sl"])
def test_the_recipes_train(compose, shrink_losses, tmp_path, size):
    small = [f"backbone.encoder.{value}" for value in SMALL] + ["model.codebook_size=16"]
    small += [f"backbone.decoder.{value}" for value in SMALL[: 3 * (size == "sl")]]
    overrides = [f"experiment=vitvqgan_{size}_imagenet256", "trainer=debug", f"run.dir={tmp_path}/run", *small]
    overrides += ["loss.image_losses.lpips.net=squeeze"]
    config = compose("train", *overrides)
    shrink_losses(config.loss, config.data.image_size)
    metrics = run.train(config, overrides)
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert set(config.loss.loss_weights) - {"adversarial", "discriminator"} <= set(metrics)
    tokenizer = vistok.load(tmp_path / "run")
    images = torch.rand(1, 3, 64, 40) * 2 - 1
    codes = tokenizer.tokenize(images)
    assert codes.shape == (1, 1, 8, 5) and tokenizer.detokenize(codes).shape == images.shape
