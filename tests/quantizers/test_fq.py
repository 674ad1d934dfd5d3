"""The factorized head against its authors' values and by hand."""

from functools import partial

import pytest
import torch

from vistok.quantizers import (
    DynamicQuantizer,
    FactorizedQuantizer,
    FeatureRouter,
    MultiScaleQuantizer,
    SimVQ,
    VectorQuantizer,
    factorized,
)
from vistok.quantizers.fq import disentanglement

NAMES = ("vis", "sem")


def test_fqgan(golden, close):
    values = golden("heads", "fqgan")
    heads = [VectorQuantizer(40, 8, cosine=True, entropy_temperature=0.01) for _ in NAMES]
    for name, head in zip(NAMES, heads, strict=True):
        head.codewords.data.copy_(values[f"codebook.{name}"])
    quantizer = FactorizedQuantizer(heads)
    z = torch.cat([values[f"z.{name}"] for name in NAMES], dim=1).requires_grad_()
    quantized = quantizer(z)
    for i, (name, part) in enumerate(zip(NAMES, quantizer.split(quantized.latent), strict=True)):
        assert torch.equal(quantized.codes[:, i], values[f"codes.{name}"])
        close(part, values[f"zq.{name}"])
    losses = quantized.losses
    close(losses["codebook"], sum(values[f"loss.{name}.vq"] for name in NAMES))
    close(0.25 * losses["commitment"], sum(values[f"loss.{name}.commit"] for name in NAMES))
    close(0.03 * losses["entropy"], sum(values[f"loss.{name}.entropy"] for name in NAMES))
    close(0.1 * losses["disentanglement"], values["loss.disentangle"])
    weights = {"codebook": 1.0, "commitment": 0.25, "entropy": 0.03, "disentanglement": 0.1}
    loss = sum(weights[name] * term for name, term in losses.items())
    close(loss, values["loss.total"])
    upstream = (torch.cat([values[f"up.zq.{name}"] for name in NAMES], dim=1) * quantized.latent).sum()
    for kind, total in (("gradloss", loss), ("grad", loss + upstream)):
        of_z, *of_tables = torch.autograd.grad(total, [z, *(head.codewords for head in heads)], retain_graph=True)
        for name, part, of_table in zip(NAMES, quantizer.split(of_z), of_tables, strict=True):
            close(part, values[f"{kind}.z.{name}"], 5e-5)
            close(of_table, values[f"{kind}.codebook.{name}"], 5e-5)


@pytest.mark.parametrize("name, keys", [
    ("fqgan_dual", ("vis", "sem")),
    ("fqgan_triple", ("vis", "sem_mid", "sem_high")),
])  # fmt: skip
def test_whole_models(family, close, name, keys):
    """The heads of the authors' models on the latents that they had."""
    weights, io = family(name)
    heads = [VectorQuantizer(*weights[f"quantize_{key}.embedding.weight"].shape, cosine=True) for key in keys]
    for key, head in zip(keys, heads, strict=True):
        head.codewords.data.copy_(weights[f"quantize_{key}.embedding.weight"])
    quantizer = FactorizedQuantizer(heads).eval()
    for evaluated in (quantizer, quantizer.for_inference()):
        quantized = evaluated(torch.cat([io[f"latent.{key}"] for key in keys], dim=1))
        assert torch.equal(quantized.codes, io["codes"])
        close(quantized.latent, io["quantized"])
    close(0.1 * quantizer(torch.cat([io[f"latent.{key}"] for key in keys], dim=1)).losses["disentanglement"],
          io["disentangle_loss"])  # fmt: skip


def test_disentanglement_by_hand():
    right, up = torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([0.0, 0.5]).reshape(1, 2, 1, 1)
    between = torch.tensor([1.0, 1.0]).reshape(1, 2, 1, 1)
    assert disentanglement([right, up]).item() == 0
    assert disentanglement([right, right]).item() == pytest.approx(1)
    assert disentanglement([right, up, between]).item() == pytest.approx(1 / 3)  # squared cosines 0, 1/2 and 1/2


def test_every_codebook_has_its_share_of_each_term():
    torch.manual_seed(0)
    quantizer = factorized(partial(VectorQuantizer, 16, entropy_temperature=0.5), 3, 12)
    z = torch.randn(2, 12, 4, 4, requires_grad=True)
    losses = quantizer(z).losses
    parts = [head(part) for head, part in zip(quantizer.heads, quantizer.split(z), strict=True)]
    for name in ("commitment", "codebook", "entropy"):
        torch.testing.assert_close(losses[name], sum(part.losses[name] for part in parts))
    for head in quantizer.heads:
        for name in ("codebook", "entropy"):
            assert torch.autograd.grad(losses[name], head.codewords, retain_graph=True)[0].any()
    for name in ("commitment", "disentanglement"):
        gradient = torch.autograd.grad(losses[name], z, retain_graph=True)[0]
        assert all(part.any() for part in quantizer.split(gradient))


def test_heads_of_different_kinds_and_widths():
    torch.manual_seed(0)
    quantizer = FactorizedQuantizer([VectorQuantizer(8, 2), SimVQ(16, 6)], disentangle=False)
    assert quantizer.dim == 8 and quantizer.codebook_sizes == (8, 16)
    assert quantizer.loss_names == ("commitment", "codebook")
    quantized = quantizer(torch.randn(2, 8, 3, 5))
    assert quantized.codes.shape == (2, 2, 3, 5)
    assert [part.shape[1] for part in quantizer.split(quantized.latent)] == [2, 6]


def test_a_term_that_one_head_alone_has():
    quantizer = FactorizedQuantizer([VectorQuantizer(8, 4), VectorQuantizer(8, 4, ema_decay=0.9)])
    assert quantizer.loss_names == ("commitment", "codebook", "disentanglement")
    stats = quantizer.train()(torch.randn(1, 8, 2, 2)).stats
    assert set(stats) == {"1.counts", "1.sums"}
    before = quantizer.heads[1].ema_counts.clone()
    quantizer.update(stats)
    assert not torch.equal(quantizer.heads[1].ema_counts, before)


def test_codebooks_restart_each_on_its_own():
    quantizer = factorized(partial(VectorQuantizer, 8, restart=0.1), 2, 4)
    moved = quantizer.update(quantizer.train()(torch.randn(1, 4, 4, 4)).stats)
    assert set(moved) == {"heads.0.codewords", "heads.1.codewords"}


@pytest.mark.parametrize("make, message", [
    (lambda: factorized(partial(VectorQuantizer, 8), 3, 16), "num_codebooks=3 does not divide the latent's 16"),
    (lambda: factorized(partial(VectorQuantizer, 8), 0, 16), "num_codebooks=0 does not divide"),
    (lambda: factorized(partial(VectorQuantizer, 1), 2, 16), "codebook_size must be at least 2, not 1"),
    (lambda: FactorizedQuantizer([]), "heads is empty"),
    (lambda: factorized(partial(MultiScaleQuantizer, VectorQuantizer(8, 4)), 2, 8),
     "a MultiScaleQuantizer takes no dim: .* pass a list to FactorizedQuantizer"),
    (lambda: FactorizedQuantizer([DynamicQuantizer(VectorQuantizer(8, 4), FeatureRouter(4, 2, groups=2))] * 2),
     "a DynamicQuantizer cannot be one of several heads: they would choose different granularities"),
    (lambda: FactorizedQuantizer([VectorQuantizer(8, 2), VectorQuantizer(8, 4)]), r"the heads' dims are \[2, 4\]"),
])  # fmt: skip
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
