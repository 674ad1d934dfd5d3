"""onnxruntime and ``torch.export.load`` do with exported graphs what the tokenizer does, at sizes of all kinds."""

import numpy as np
import pytest
import torch
from torch import nn

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, HierarchicalEncoder, ViTDecoder, ViTEncoder
from vistok.formats.exporters import graphs
from vistok.formats.exporters.parity import ParityError
from vistok.quantizers import (
    DynamicQuantizer,
    EntropyRouter,
    FactorizedQuantizer,
    FeatureRouter,
    SimVQ,
    VectorQuantizer,
    VQBridge,
)

SMALL = {"channels": 8, "attention": (), "mid_attention": True}
SIZES = [(1, 4, 4), (3, 10, 6), (2, 24, 32)]  # batch, height, width


def images(batch, height, width):
    coarse = torch.rand(batch, 3, 3, 3) * 3 - 1.5
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear").clamp(-1, 1)


@torch.no_grad()
def compare(tokenizer, encode, decode, sizes=SIZES):
    """All codes and images, and how many codes there were."""
    found = set()
    for size in sizes:
        given = images(*size)
        quantized, (codes, *keep) = tokenizer.quantize(given), encode(given)
        assert torch.equal(codes, quantized.codes) and codes.dtype == torch.int64
        assert quantized.keep is None or torch.equal(keep[0], quantized.keep)
        decoded = decode(codes)
        torch.testing.assert_close(decoded, tokenizer.detokenize(codes), rtol=0, atol=1e-5)
        assert decoded.abs().max() <= 1
        found |= set(codes.flatten().tolist())
    return len(found)


def in_onnxruntime(folder):
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder, decoder = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("encoder", "decoder"))
    outputs = [output.name for output in encoder.get_outputs()]
    return (
        lambda given: list(map(torch.from_numpy, encoder.run(outputs, {"images": given.numpy()}))),
        lambda codes: torch.from_numpy(decoder.run(["images"], {"codes": codes.numpy()})[0]),
    )


def in_torch(folder):
    return (torch.export.load(folder / f"{name}.pt2").module() for name in ("encoder", "decoder"))


def trained(head):
    """A head whose codewords lie where latents are."""
    for parameter in head.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return head


def many(tokenizer):
    """With latents as large as the codewords, so that many codes occur."""
    nn.init.normal_(tokenizer.to_latent.weight, std=0.5)
    return tokenizer


def test_onnx(make_vqgan, tmp_path):
    torch.manual_seed(0)
    heads = [VectorQuantizer(40, 2, cosine=True), SimVQ(24, 2), VQBridge(64, 2, "XS", depth=1)]
    tokenizer = many(make_vqgan(trained(FactorizedQuantizer(heads)), **SMALL))
    parity = graphs.save_onnx(tokenizer, tmp_path / "model")
    assert compare(tokenizer, *in_onnxruntime(tmp_path / "model")) > 20
    assert parity.codes == 3 * 32 * 3 and parity.near_ties == 0  # 2 + 1 images of 4 x 8 positions and 3 codebooks


def hierarchical(router):
    torch.manual_seed(0)
    size = {"channels": 8, "num_blocks": 1, "attention": (), "dim": 16}
    encoder = HierarchicalEncoder(multipliers=(1, 1), num_maps=2, **size)
    head = DynamicQuantizer(trained(VectorQuantizer(40, 16)), router)
    return Tokenizer(encoder, head, CNNDecoder(multipliers=(1,), **size)).eval()


@pytest.mark.parametrize("save, read", [
    (graphs.save_torch, in_torch),
    pytest.param(graphs.save_onnx, in_onnxruntime, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_dynamic_head_says_what_to_keep(tmp_path, save, read):
    tokenizer = hierarchical(FeatureRouter(16, groups=4))
    nn.init.normal_(tokenizer.quantizer.router.gate[0].weight)
    save(tokenizer, tmp_path / "model")
    encode, decode = read(tmp_path / "model")
    sizes = [(1, 8, 4), (2, 16, 24)]
    compare(tokenizer, encode, decode, sizes)
    kept = torch.cat([encode(images(*size))[1].flatten() for size in sizes]).float().mean()
    assert 0.26 < kept < 0.99  # neither all coarse nor all fine


def vit(positions):
    torch.manual_seed(0)
    size = {"dim": 16, "depth": 1, "num_heads": 1, "head_dim": 16, "patch": 2, "image_size": 16, "positions": positions}
    maps = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
    return Tokenizer(ViTEncoder(**size), trained(VectorQuantizer(40, 4)), ViTDecoder(**size), *maps).eval()


def test_a_transformer_of_any_size(tmp_path):
    tokenizer = vit("sincos")
    parity = graphs.save_torch(tokenizer, tmp_path / "model")
    assert (16, 16) in parity.sizes
    compare(tokenizer, *in_torch(tmp_path / "model"), [(1, 16, 16), (3, 12, 20)])


def test_one_size(tmp_path):
    tokenizer = vit("learned")
    with pytest.raises(ValueError, match="learned positions have no graph for images of any size; give one image_size"):
        graphs.save_torch(tokenizer, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    graphs.save_torch(tokenizer, tmp_path / "model", image_size=16)
    encode, decode = in_torch(tmp_path / "model")
    compare(tokenizer, encode, decode, [(1, 16, 16), (3, 16, 16)])
    with pytest.raises((RuntimeError, AssertionError)):
        encode(images(1, 20, 20))


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="an entropy router reads images in parts.*the target folder takes it"):
        graphs.save_onnx(hierarchical(EntropyRouter([0.5], 2)), tmp_path / "model")
    with pytest.raises(ValueError, match="image_size=15 is not a multiple of the tokenizer's factor 2"):
        graphs.save_torch(vit("sincos"), tmp_path / "model", image_size=15)
    assert not list(tmp_path.iterdir())


def test_a_wrong_graph_is_not_finished(tmp_path, monkeypatch):
    original = torch.export.load

    def other(path):
        program = original(path)
        for tensor in program.state_dict.values():
            tensor.data.mul_(1.01)
        return program

    monkeypatch.setattr(torch.export, "load", other)
    with pytest.raises(ParityError, match="differ"):
        graphs.save_torch(vit("learned"), tmp_path / "model", image_size=16)
    assert not list(tmp_path.iterdir())


def test_the_search_is_whole_in_a_graph_only(monkeypatch):
    """Under export one product for all vectors; the plain search goes on in parts, and both agree."""
    from vistok.kernels import nearest

    z, codebook = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 4))).float(), torch.randn(30, 4)
    parts = nearest.nearest_code(z, codebook)
    monkeypatch.setattr(nearest, "is_exporting", lambda: True)
    assert torch.equal(nearest.nearest_code(z, codebook), parts)
