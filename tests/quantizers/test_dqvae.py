"""The dynamic head: routers and budget against the authors' values, the rest by hand."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vistok.quantizers import (
    Context,
    DynamicQuantizer,
    EntropyRouter,
    FeatureRouter,
    SimVQ,
    VectorQuantizer,
    factorized,
)
from vistok.quantizers.dqvae import budget_loss
from vistok.quantizers.routers import granularities_by_rank, one_hot, patch_entropy


class Fixed(torch.nn.Module):
    """A router with its mind made up."""

    def __init__(self, granularity, grains=2):
        super().__init__()
        self.granularity, self.grains = granularity, grains

    def forward(self, maps, context):
        return one_hot(self.granularity, self.grains)


def test_published_router():
    assert sum(p.numel() for p in FeatureRouter(256).parameters()) == 264_706


@pytest.mark.parametrize("bins, low", [("entropy", -1.0), ("entropy_bins01", 0.0)])
def test_entropy(golden, close, bins, low):
    values = golden("dqvae", "dqvae_entropy")
    close(patch_entropy(values["images"], 16, low, 1.0), values[bins])


@pytest.mark.parametrize("below", [0.05, 0.12, 0.13, 0.1346, 0.135, 0.138, 0.15, 1.0])
def test_entropy_of_a_patch_darker_than_all_bins(below):
    """Sums of the histogram near or below ε, by the authors' formula in numpy's float32, which has denormals."""
    spread = np.float32(0.0005) * np.arange(64, dtype=np.float32).reshape(8, 8) / 64
    grey = np.float32(-1 - below) - spread
    bins = np.linspace(-1, 1, 32, dtype=np.float32)
    kernels = np.exp(np.float32(-0.5) * ((grey.reshape(-1, 1) - bins) / np.float32(0.01)) ** 2)
    share = kernels.mean(0, dtype=np.float32)
    share = share / (share.sum(dtype=np.float32) + np.float32(1e-40)) + np.float32(1e-40)
    expected = -(share * np.log(share)).sum()
    images = torch.from_numpy(grey).view(1, 1, 8, 8)
    assert patch_entropy(images, 8).item() == pytest.approx(expected, abs=2e-4)


def test_entropy_in_parts(monkeypatch):
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    whole = patch_entropy(images, 8)
    monkeypatch.setattr("vistok.quantizers.routers.ROWS_AT_ONCE", 3 * 64 * 32)
    torch.testing.assert_close(patch_entropy(images, 8), whole)


@pytest.mark.parametrize("form, times", [("single", 1), ("all", 2)])
def test_budget_of_two_grains(golden, close, form, times):
    values = golden("dqvae", "dqvae_budget_dual")
    gate = values["gate"].requires_grad_()
    loss = 10 * times * budget_loss(gate, torch.tensor([0.5]))
    close(loss, values[f"loss.{form}"])
    close(torch.autograd.grad(loss, gate)[0], values[f"grad.{form}.gate"])


def test_budget_of_three_grains(golden, close):
    values = golden("dqvae", "dqvae_budget_triple")
    gate = values["gate"].requires_grad_()
    loss = budget_loss(gate, torch.tensor([0.3, 0.3]))
    close(loss, values["loss.total"])
    close(torch.autograd.grad(loss, gate)[0], values["grad.gate"])


def test_weights_of_the_budgets_terms():
    gate = one_hot(torch.tensor([[[0, 1], [1, 2]]]), 3)  # shares 1/2 and 1/4
    rates = torch.tensor([0.25, 0.75])
    assert budget_loss(gate, rates, [2.0, 10.0]).item() == pytest.approx(2 / 16 + 10 / 4)
    head = DynamicQuantizer(VectorQuantizer(8, 4), FeatureRouter(4, 3, 4), [0.2, 0.3], rate_weights=[1.0, 0.0])
    z = torch.randn(2, 4, 4, 4)
    assert head.for_inference().rate_weights == [1.0, 0.0] and head(z).losses["budget"].isfinite()
    with pytest.raises(ValueError, match=r"rate_weights=\[1.0\] must be one number for each of rates=\[0.2, 0.3\]"):
        DynamicQuantizer(VectorQuantizer(8, 4), FeatureRouter(4, 3, 4), [0.2, 0.3], rate_weights=[1.0])


def test_budget_by_hand():
    gate = one_hot(torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 1]]]), 2)  # shares of fine regions 3/4 and 1/4
    assert budget_loss(gate, torch.tensor([0.5])).item() == pytest.approx(0)
    assert budget_loss(gate, torch.tensor([1.0])).item() == pytest.approx(0.25)
    assert budget_loss(gate, torch.tensor([[1.0], [0.25]])).item() == pytest.approx(0.25**2 / 2)


def test_the_two_forms_of_the_budget():
    losses = {}
    for form in ("plain", "doubled"):
        router = Fixed(torch.zeros(1, 2, 2, dtype=torch.int64))
        head = DynamicQuantizer(VectorQuantizer(8, 4), router, rates=[0.5], budget=form)
        losses[form] = head(torch.randn(1, 4, 4, 4)).losses["budget"].item()
    assert losses == {"plain": 0.25, "doubled": 0.5}


def test_two_grains_by_hand():
    """One coarse region beside a fine one."""
    table = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    inner = VectorQuantizer(4, 1, ema_decay=0.9).train()
    inner.codewords.copy_(table)
    head = DynamicQuantizer(inner, Fixed(torch.tensor([[[0, 1]]]))).train()
    z = torch.tensor([[0.0, 2.2, 1.0, 2.0], [1.6, 0.6, 3.0, 0.0]]).reshape(1, 1, 2, 4)
    quantized = head(z)
    assert quantized.codes.tolist() == [[[[1, 1, 1, 2], [1, 1, 3, 0]]]]  # the mean of the left region is 1.1
    assert quantized.keep.tolist() == [[[True, False, True, True], [False, False, True, True]]]
    # 4 errors of 0.1², a quarter each, over 8 positions
    assert quantized.losses["commitment"].item() == pytest.approx(0.1**2 / 8, rel=1e-4)
    assert quantized.stats["counts"].tolist() == [1.0, 2.0, 1.0, 1.0]  # a token each
    assert torch.equal(head.lookup(quantized.codes), quantized.latent)


def test_three_grains_by_hand():
    granularity = torch.tensor([[[0, 1, 2]]])
    head = DynamicQuantizer(VectorQuantizer(64, 2), Fixed(granularity, 3)).eval()
    torch.nn.init.normal_(head.head.codewords)
    quantized = head(torch.randn(1, 2, 4, 12))
    expected = torch.zeros(4, 12, dtype=torch.bool)
    expected[0, 0] = True
    expected[::2, 4:8:2] = True
    expected[:, 8:] = True
    assert torch.equal(quantized.keep[0], expected)
    codes = quantized.codes[0, 0]
    assert (codes[:, :4] == codes[0, 0]).all()
    assert torch.equal(codes[:, 4:8], codes[::2, 4:8:2].repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize("grains, given", [(2, 2), (3, 1)])
def test_maps_beyond_the_grains_are_left_out_and_missing_ones_are_means(grains, given):
    head = DynamicQuantizer(VectorQuantizer(16, 4), FeatureRouter(4, grains, groups=2))
    z, half, quarter = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4), torch.randn(2, 4, 2, 2)
    maps = head._maps(z, (quarter, half)[-given:])
    expected = (half, z) if grains == 2 else (F.avg_pool2d(half, 2), half, z)
    assert len(maps) == grains and all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


def test_maps_of_the_encoder_are_taken_as_they_are():
    head = DynamicQuantizer(VectorQuantizer(64, 2), Fixed(torch.tensor([[[0, 1]]]))).eval()
    torch.nn.init.normal_(head.head.codewords)
    z, coarse = torch.randn(1, 2, 2, 4), torch.randn(1, 2, 1, 2)
    quantized = head(z, Context(maps=(coarse,)))
    assert torch.equal(quantized.codes[..., 0, 0], head.head(coarse).codes[..., 0, 0])
    assert torch.equal(quantized.codes[..., 2:], head.head(z).codes[..., 2:])


def test_a_projection_comes_after_the_router():
    torch.manual_seed(0)
    projection = torch.nn.Conv2d(6, 4, 1)
    head = DynamicQuantizer(VectorQuantizer(16, 4), FeatureRouter(6, groups=3), projection=projection).eval()
    assert (head.input_dim, head.dim) == (6, 4)
    quantized = head(torch.randn(1, 6, 4, 4))
    assert quantized.latent.shape == (1, 4, 4, 4)


def test_a_whole_model_with_an_entropy_router(family, close):
    """The head of the authors' model on its images and latents; half of the regions are fine by its table."""
    weights, io = family("dqvae_dual_entropy")
    inner = VectorQuantizer(80, 32, ema_decay=0.99)
    inner.codewords.copy_(weights["quantize.codebook.weight"][:80])
    head = DynamicQuantizer(inner, EntropyRouter([1.8225123882293701], patch=8)).eval()
    latent = io["latent"]  # assembled already: its coarse cells are equal all over
    for evaluated in (head, head.for_inference()):
        quantized = evaluated(latent, Context(images=io["images"], maps=(latent[..., ::2, ::2],)))
        assert torch.equal(quantized.codes[:, 0], io["codes"])
        close(quantized.latent, io["quantized"])
        assert torch.equal(quantized.keep.sum((1, 2)), 36 + 3 * io["grain"].sum((1, 2)))


@pytest.mark.parametrize("name, grains", [("dqvae_dual_feat", 2), ("dqvae_triple_feat", 3)])
def test_whole_models_with_a_feature_router(family, close, name, grains):
    weights, io = family(name)
    inner = VectorQuantizer(64, 24, ema_decay=0.99)
    inner.codewords.copy_(weights["quantize.codebook.weight"][:64])
    head = DynamicQuantizer(inner, Fixed(io["grain"], grains)).eval()
    maps = tuple(io["latent"][..., :: 2**step, :: 2**step] for step in range(grains - 1, 0, -1))
    quantized = head(io["latent"], Context(maps=maps))
    assert torch.equal(quantized.codes[:, 0], io["codes"])
    close(quantized.latent, io["quantized"])
    size = 2 ** (grains - 1)
    weight = io["codebook_mask"][:, 0]
    torch.testing.assert_close(quantized.keep.unfold(1, size, size).unfold(2, size, size).sum((3, 4)).float(),
                               weight.unfold(1, size, size).unfold(2, size, size).sum((3, 4)))  # fmt: skip


def test_feature_router_reads_norms_then_means(close):
    """Against the same network written out."""
    torch.manual_seed(0)
    router = FeatureRouter(8, grains=3, groups=4).eval()
    maps = [torch.randn(2, 8, side, side + 1) for side in (1, 2, 4)]
    maps = [torch.randn(2, 8, 2 * f, 3 * f) for f in (1, 2, 4)]
    features = []
    for m, norm, f in zip(maps, router.norms, (1, 2, 4), strict=True):
        groups = m.reshape(2, 4, -1)
        unit = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-6).sqrt()
        unit = unit.reshape(m.shape) * norm.weight[:, None, None] + norm.bias[:, None, None]
        features.append(unit.reshape(2, 8, 2, f, 3, f).mean((3, 5)))
    x = torch.cat(features, dim=1).permute(0, 2, 3, 1)
    first, _, second = router.gate
    x = x @ first.weight.T + first.bias
    logits = (x * x.sigmoid()) @ second.weight.T + second.bias
    close(router.logits(maps).permute(0, 2, 3, 1), logits)
    assert torch.equal(router(maps, Context()).argmax(1), logits.argmax(3))


def test_gate_of_relu_without_norms(close):
    torch.manual_seed(0)
    router = FeatureRouter(8, groups=None, activation="relu").eval()
    maps = [torch.randn(2, 8, 3, 3), torch.randn(2, 8, 6, 6)]
    x = torch.cat([maps[0], maps[1].reshape(2, 8, 3, 2, 3, 2).mean((3, 5))], dim=1).permute(0, 2, 3, 1)
    first, _, second = router.gate
    hidden = (x @ first.weight.T + first.bias).clamp(min=0)
    close(router.logits(maps).permute(0, 2, 3, 1), hidden @ second.weight.T + second.bias)


def test_the_router_learns_from_decoder_and_budget():
    torch.manual_seed(0)
    head = DynamicQuantizer(VectorQuantizer(16, 8), FeatureRouter(8, groups=4), rates=[0.5]).train()
    quantized = head(torch.randn(4, 8, 8, 8))
    for loss in (quantized.latent.square().sum(), quantized.losses["budget"]):
        gradients = torch.autograd.grad(loss, list(head.router.parameters()), retain_graph=True)
        assert all(g.any() for g in gradients[-4:])


def test_training_draws_and_evaluation_does_not():
    torch.manual_seed(0)
    router = FeatureRouter(8, groups=4)
    maps = (torch.randn(4, 8, 8, 8), torch.randn(4, 8, 16, 16))
    drawn = router.train()(maps, Context())
    assert not torch.equal(drawn, router(maps, Context()))
    assert ((drawn == 0) | (drawn == 1)).all() and torch.equal(drawn.sum(1), torch.ones(4, 8, 8))
    assert torch.equal(router.eval()(maps, Context()), router(maps, Context()))


@pytest.mark.parametrize("router", [FeatureRouter(8, groups=4), EntropyRouter([1.0], patch=4)])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
def test_rates_are_met_exactly(router, rate):
    torch.manual_seed(0)
    head = DynamicQuantizer(VectorQuantizer(16, 8), router).eval()
    rates = torch.tensor([rate, 0.5])
    context = Context(images=torch.rand(2, 3, 16, 32) * 2 - 1, rate=rates)
    keep = head(torch.randn(2, 8, 8, 16), context).keep
    assert torch.equal(keep.sum((1, 2)), (32 + 3 * 32 * rates).long())


def test_ranks_by_hand():
    worth = torch.tensor([[[0.1, 0.9], [0.5, 0.7]]])
    assert granularities_by_rank(worth, torch.tensor([0.5]), 2).tolist() == [[[0, 1], [0, 1]]]
    assert granularities_by_rank(worth, torch.tensor([[0.5, 0.25]]), 3).tolist() == [[[0, 2], [1, 1]]]


def test_a_target_rate_in_training_is_the_budgets():
    head = DynamicQuantizer(VectorQuantizer(8, 4), Fixed(torch.zeros(2, 2, 2, dtype=torch.int64)), rates=[0.5]).train()
    losses = head(torch.randn(2, 4, 4, 4), Context(rate=torch.tensor([0.0, 1.0]))).losses
    assert losses["budget"].item() == pytest.approx(0.5)


def test_entropy_router_by_thresholds():
    images = torch.zeros(1, 3, 8, 24)
    images[..., 8:16] = torch.linspace(-1, 1, 8)
    images[..., 16:] = torch.rand(3, 8, 8) * 2 - 1
    plain, bars, noise = patch_entropy(images, 8)[0, 0].tolist()
    assert plain < bars < noise
    maps = [torch.zeros(1, 1, 1, 3)]
    router = EntropyRouter([(plain + bars) / 2, (bars + noise) / 2], patch=8)
    assert router(maps, Context(images=images)).argmax(1).tolist() == [[[0, 1, 2]]]


def test_equal_vectors_of_a_cell_get_one_code():
    """Whatever a matrix product makes of them: codes and latent are those of the cell's first position."""

    class Wavering(VectorQuantizer):
        def forward(self, z, context=Context()):
            quantized = super().forward(z, context)
            codes = torch.randint(self.codebook_size, quantized.codes.shape)
            return quantized._replace(codes=codes, latent=self.lookup(codes))

    head = DynamicQuantizer(Wavering(64, 4), Fixed(torch.zeros(1, 3, 3, dtype=torch.int64))).eval()
    quantized = head(torch.randn(1, 4, 6, 6))
    assert torch.equal(quantized.codes, quantized.codes[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(head.lookup(quantized.codes), quantized.latent)


def test_a_factorized_head_inside():
    inner = factorized(partial(SimVQ, 16), 2, 8)
    head = DynamicQuantizer(inner, FeatureRouter(8, groups=4), rates=[0.5])
    quantized = head.eval()(torch.randn(1, 8, 4, 6))
    assert quantized.codes.shape == (1, 2, 4, 6) and quantized.keep.shape == (1, 4, 6)
    assert torch.equal(head.lookup(quantized.codes), quantized.latent)


def dual(**arguments):
    return DynamicQuantizer(VectorQuantizer(8, 4), FeatureRouter(4, groups=2), **arguments).eval()


Z = torch.zeros(2, 4, 4, 4)


@pytest.mark.parametrize("action, message", [
    (lambda: dual()(Z, Context(rate=torch.tensor([0.5, 1.5]))), r"rate=\[0.5, 1.5\] must be shares in \[0, 1\]"),
    (lambda: dual()(Z, Context(rate=torch.tensor([-0.1, 0.5]))), r"must be shares in \[0, 1\]"),
    (lambda: dual()(Z, Context(rate=torch.full((2, 2), 0.2))), r"rate has the shape \(2, 2\), but 2 granularities"),
    (lambda: dual(rates=[1.5]), r"must be shares in \[0, 1\]"),
    (lambda: dual(rates=[0.3, 0.3]), "must be 1 shares for 2 granularities"),
    (lambda: dual(budget="triple"), "budget must be one of plain, doubled, not 'triple'"),
    (lambda: dual(projection=torch.nn.Conv2d(8, 8, 1)), "projection makes 8 channels, but head.dim is 4"),
    (lambda: dual()(Z, Context(maps=(Z,))), r"context.maps have the sizes \[\(4, 4\)\], but 2 granularities of a"),
    (lambda: dual()(Z[..., :3]), "a latent of 4x3 has no regions of 2 positions a side"),
    (lambda: dual().with_table(0, dual().table(0)), "a DynamicQuantizer has no codebook that another"),
    (lambda: FeatureRouter(4, 3, groups=2)([Z, Z], Context()), "there are 2 maps, but grains=3 need one each"),
    (lambda: FeatureRouter(8, groups=4, activation="tanh"), "activation must be one of silu, relu, not 'tanh'"),
    (lambda: FeatureRouter(6, groups=4), "groups=4 does not divide the 6 channels"),
    (lambda: EntropyRouter([], patch=4), "thresholds must be one or more ascending entropies"),
    (lambda: EntropyRouter([2.0, 1.0], patch=4), "ascending entropies, not"),
    (lambda: EntropyRouter([1.0], patch=4)([Z], Context()), "context.images is None"),
    (lambda: EntropyRouter([1.0], patch=4)([Z], Context(images=torch.zeros(2, 3, 8, 8))), "patch=4 does not make"),
])  # fmt: skip
def test_bad_input(action, message):
    with pytest.raises(ValueError, match=message):
        action()
