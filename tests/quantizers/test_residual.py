"""Residual quantization: the authors' values, the plain formula at other sizes, depths and what shares a codebook."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from vistok.formats import native
from vistok.quantizers import (
    FSQ,
    BinaryQuantizer,
    Codes,
    Context,
    DynamicQuantizer,
    FeatureRouter,
    GumbelQuantizer,
    JanusQuantizer,
    MultiScaleQuantizer,
    Quantized,
    Quantizer,
    ResidualQuantizer,
    RotationTrick,
    SimVQ,
    StraightThrough,
    Table,
    VectorQuantizer,
    code_statistics,
    factorized,
    in_depths,
)
from vistok.quantizers.base import owners


def vq(size=16, dim=4, **arguments):
    head = VectorQuantizer(size, dim, **arguments)
    nn.init.normal_(head.codewords)
    return head


def of_rqvae(values, i):
    head = VectorQuantizer(24, 8, ema_decay=0.99, restart=1.0, restart_unit="vector")
    head.codewords.copy_(values[f"before.codebooks.{i}.weight"][:-1])  # the last row is padding
    head.ema_counts.copy_(values[f"before.codebooks.{i}.cluster_size_ema"])
    head.ema_sums.copy_(values[f"before.codebooks.{i}.embed_ema"])
    return head


def test_separate_codebooks_against_rqvae(golden, close):
    """Codes, sum, loss, gradients, and the codebooks after the update."""
    values = golden("summed", "rqvae_separate")
    head = ResidualQuantizer([of_rqvae(values, i) for i in range(3)])
    z = values["z"].movedim(-1, 1).requires_grad_()
    quantized = head(z)
    assert torch.equal(quantized.codes.movedim(1, -1), values["codes"])
    close(quantized.latent.movedim(1, -1), values["zq"])
    loss = quantized.losses["commitment"]
    close(loss, values["loss.total"])
    upstream = (quantized.latent * values["up.zq"].movedim(-1, 1)).sum()
    for term, name in ((loss, "gradloss.z"), (loss + upstream, "grad.z")):
        (gradient,) = torch.autograd.grad(term, z, retain_graph=True)
        torch.testing.assert_close(gradient.movedim(1, -1), values[name], rtol=0, atol=1e-6)
    head.update(quantized.stats)
    for i, part in enumerate(head.heads):
        close(part.codewords, values[f"after1.codebooks.{i}.weight"][:-1])
        close(part.ema_counts, values[f"after1.codebooks.{i}.cluster_size_ema"])
        close(part.ema_sums, values[f"after1.codebooks.{i}.embed_ema"])


def test_a_shared_codebook_against_rqvae(golden, close):
    """Updated after every depth, as there, the head in it has all their values; the composite updates it once."""
    values = golden("summed", "rqvae_shared")
    z = values["z"].movedim(-1, 1)
    alone, rest, losses = of_rqvae(values, 0), z, []
    for i in range(3):
        step = alone(rest)
        assert torch.equal(step.codes[:, 0], values["codes"][..., i])
        alone.update(step.stats)
        rest = rest - step.codewords
        losses.append(step.losses["commitment"])
    close((z - rest).movedim(1, -1), values["zq"])
    close(torch.stack(losses).mean(), values["loss.total"])
    close(alone.codewords, values["after1.codebooks.0.weight"][:-1])

    head = ResidualQuantizer([of_rqvae(values, 0)], 3)
    quantized = head(z)
    assert torch.equal(quantized.codes[:, 0], values["codes"][..., 0])
    counts, sums, rest = torch.zeros(24), torch.zeros(24, 8), z
    for codes in quantized.codes.unbind(1):
        hits = F.one_hot(codes.flatten(), 24).float()
        counts, sums = counts + hits.sum(0), sums + hits.T @ rest.movedim(1, -1).flatten(0, 2)
        rest = rest - head.heads[0].lookup(codes[:, None])
    torch.testing.assert_close(quantized.stats["heads.0.counts"], counts)
    torch.testing.assert_close(quantized.stats["heads.0.sums"], sums)
    head.update(quantized.stats)
    torch.testing.assert_close(
        head.heads[0].ema_counts, 0.99 * values["before.codebooks.0.cluster_size_ema"] + 0.01 * counts
    )


def test_a_full_rqvae(golden, close):
    values = golden("summed", "rqvae_model")
    head = ResidualQuantizer([vq(64, 24)], 4).eval()
    head.heads[0].codewords.data.copy_(values["table"])
    codes = head.encode(values["z"]).codes
    assert torch.equal(codes.movedim(1, -1), values["codes"])
    sums = torch.stack(head.partial(codes, head.layout(8, 8)), dim=1)
    close(sums[:1].movedim(2, -1), values["partial_sums"])


def test_the_residual_mode_of_vit_vqgan(golden, close):
    """Unit codewords, each loss on its own residual, which is that of a detached latent."""
    values = golden("summed", "enhancing_residual")
    codebook = vq(40, 8, cosine=True, raw_gradient=True)
    codebook.codewords.data.copy_(values["codebook"])
    head = ResidualQuantizer([codebook], 3, losses="steps", residual_gradient="codewords")
    z = values["z"].clone().requires_grad_()
    quantized = head(z)  # a sequence
    assert torch.equal(quantized.codes[:, :, 0].mT, values["codes"])
    close(quantized.latent, values["zq"])
    loss = 0.25 * quantized.losses["commitment"] + quantized.losses["codebook"]
    close(loss, values["loss.total"])
    total = loss + (quantized.latent * values["up.zq"]).sum()
    for gradient, name in zip(torch.autograd.grad(total, [z, codebook.codewords]), ("z", "codebook"), strict=True):
        torch.testing.assert_close(gradient, values[f"grad.{name}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("losses", ["sums", "steps"])
@pytest.mark.parametrize("shared, size, dim, depth, grid", [(True, 19, 5, 3, (3, 7)), (False, 33, 12, 2, (1, 5))])
def test_the_plain_formula(close, losses, shared, size, dim, depth, grid):
    torch.manual_seed(0)
    head = in_depths(partial(vq, size), depth, dim, shared, losses)
    z, weight = torch.randn(2, dim, *grid, requires_grad=True), torch.rand(2, *grid)
    quantized = head(z, Context(weight=weight))

    flat = z.detach().double().movedim(1, -1).requires_grad_()
    tables = [part.codewords.detach().double().requires_grad_() for part in head.heads]
    total, commitment, codebook = torch.zeros_like(flat), 0, 0
    for i in range(depth):
        table, before = tables[0 if shared else i], total
        rest = (flat - total).detach()
        codes = (rest[..., None, :] - table).square().sum(-1).argmin(-1)
        assert torch.equal(quantized.codes[:, i], codes)
        total = total + table[codes]
        own = total if losses == "sums" else before.detach() + table[codes]
        commitment = commitment + ((flat - own.detach()).square() * weight[..., None]).mean() / depth
        codebook = codebook + ((own - flat.detach()).square() * weight[..., None]).mean() / depth
    close(quantized.latent.movedim(1, -1), total.float())
    close(quantized.losses["commitment"], commitment.float())
    close(quantized.losses["codebook"], codebook.float())
    upstream = torch.randn_like(z)
    ours = quantized.losses["commitment"] + quantized.losses["codebook"] + (quantized.latent * upstream).sum()
    theirs = commitment + codebook + (flat * upstream.movedim(1, -1)).sum()  # straight through
    gradients = torch.autograd.grad(ours, [z, *(part.codewords for part in head.heads)])
    expected = torch.autograd.grad(theirs, [flat, *tables])
    close(gradients[0].movedim(1, -1), expected[0].float())
    for gradient, other in zip(gradients[1:], expected[1:], strict=True):
        torch.testing.assert_close(gradient, other.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("estimate, gradient", [
    ("sum", "latent"), ("sum", "codewords"), ("sum", "both"), ("sum", "none"), ("steps", "latent"), ("steps", "both"),
    ("heads", "latent"), ("heads", "both"),
])  # fmt: skip
def test_where_gradients_go(estimate, gradient):
    """Of the commitment on each depth's residual, and of the latent: once, or once for each depth."""
    torch.manual_seed(0)
    head = ResidualQuantizer([vq(), vq()], losses="steps", estimate=estimate, residual_gradient=gradient)
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantized = head(z)
    (passed,) = torch.autograd.grad(quantized.latent.sum(), z, retain_graph=True)
    times = 2 if estimate != "sum" and gradient == "latent" else 1  # both: the second input loses the first's
    torch.testing.assert_close(passed, torch.full_like(z, times))
    if not quantized.losses["commitment"].requires_grad:
        assert gradient == "none"
        return
    reached = torch.autograd.grad(
        quantized.losses["commitment"], [z, head.heads[0].codewords], allow_unused=True, retain_graph=True
    )
    to_latent = reached[0] is not None and bool(reached[0].abs().max() > 1e-7)
    assert to_latent == (gradient in ("latent", "both"))
    assert (reached[1] is not None) == (gradient == "codewords" or (gradient == "both" and estimate == "sum"))


def test_heads_with_gradients_of_their_own():
    """The decoder trains what scores the codes of a Gumbel-softmax at every depth; an estimator of the sum does not."""
    torch.manual_seed(0)
    z = torch.randn(2, 4, 3, 3)
    for estimate in ("heads", "sum"):
        head = ResidualQuantizer([GumbelQuantizer(8, 4), GumbelQuantizer(8, 4)], estimate=estimate)
        latent = head(z, Context(progress=0)).latent
        scores = [part.logits.weight for part in head.heads]
        reached = latent.requires_grad and torch.autograd.grad(latent.square().sum(), scores, allow_unused=True)
        assert bool(reached and all(own is not None and own.any() for own in reached)) == (estimate == "heads")


@pytest.mark.parametrize("levels", [5, 8])
def test_depths_of_fsq(levels):
    """Each depth divides the levels of the one before into as many, and needs nothing of its own."""
    torch.manual_seed(0)
    head = ResidualQuantizer([FSQ(levels, 3)], 3, estimate="heads", factors=1 / (levels - 1)).eval()
    z = 0.4 * torch.randn(2, 3, 8, 8)
    latents = head.partial(head.encode(z).codes, head.layout(8, 8))
    errors = [float((z - latent).square().mean()) for latent in latents]
    assert errors[1] < 0.5 * errors[0] and errors[2] < errors[1]
    assert head.codebook_sizes == (levels**3,) * 3 and head.loss_names == ()


def test_an_estimator_acts_on_the_sum():
    torch.manual_seed(0)
    head = ResidualQuantizer([vq()], 3, estimator=RotationTrick())
    z, upstream = torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(2, 4, 3, 3)
    quantized = head(z)
    (ours,) = torch.autograd.grad(quantized.latent, z, upstream, retain_graph=True)
    (theirs,) = torch.autograd.grad(RotationTrick()(z, quantized.codewords.detach()), z, upstream)
    assert torch.equal(ours, theirs)


def test_prefixes():
    torch.manual_seed(0)
    head = ResidualQuantizer(
        [factorized(partial(vq, 8), 2, 4), SimVQ(5, 4), BinaryQuantizer(4)], factors=[1, 0.5, 0.25]
    )
    head.eval()
    z = torch.randn(2, 4, 3, 5)
    codes, layout = head(z).codes, head.layout(3, 5)
    assert head.codebook_sizes == (8, 8, 5, 16) and layout.codebooks == 4 and codes.shape == (2, 4, 3, 5)
    latents = head.partial(codes, layout)
    assert len(latents) == 3
    for k, latent in zip((2, 3, 4), latents, strict=True):
        assert torch.equal(head.lookup(codes[:, :k].to(torch.int16)), latent)
    for k in (1, 5):  # 1: within the first head
        with pytest.raises(ValueError, match=r"codes have the shape .* not \(b, 4, h, w\)"):
            head.lookup(codes[:, :1].repeat(1, k, 1, 1))
    with pytest.raises(ValueError, match="codes hold 9, but codebook 1 has the codes 0 to 7"):
        head.lookup(torch.full((1, 2, 1, 1), 9).minimum(torch.tensor([7, 9]).view(1, 2, 1, 1)))
    errors = [(z - latent).square().mean() for latent in latents]
    assert errors[0] > errors[1] > errors[2]


def test_tables_are_added():
    torch.manual_seed(0)
    head = ResidualQuantizer([vq(16, 4, cosine=True), vq(9, 4), JanusQuantizer(7, 4)], factors=0.5).eval()
    codes = head(torch.randn(2, 4, 3, 5)).codes
    tables = [head.table(i) for i in range(3)]
    assert [table.metric for table in tables] == ["cosine", "l2", "l2"]
    torch.testing.assert_close(tables[0].values.norm(dim=1), torch.ones(16))
    found = sum(F.embedding(codes[:, i], table.values) for i, table in enumerate(tables))
    torch.testing.assert_close(found.movedim(-1, 1), head.lookup(codes))
    rest = torch.randn(50, 4)  # the codes of a depth are the nearest in its table, for a residual in full size
    assert torch.equal(
        torch.cdist(rest, tables[1].search).argmin(1),
        head.heads[1].encode(rest.T[None, :, None] / 0.5).codes.flatten(),
    )


@pytest.mark.parametrize("shared", [True, False])
def test_another_table_at_one_depth(shared):
    torch.manual_seed(0)
    head = in_depths(vq_of_nine, 3, 4, shared, factors=[1.0, 0.5, 0.5]).eval()
    values = head.table(1).values[:5]
    other = head.with_table(1, Table(values, "l2", values))
    assert other.codebook_sizes == (9, 5, 9) and len(other.heads) == 3
    for i in (0, 2):
        assert torch.equal(other.table(i).values, head.table(i).values)
    torch.testing.assert_close(other.table(1).values, values)
    codes = head(torch.randn(2, 4, 3, 3)).codes % 5
    torch.testing.assert_close(other.lookup(codes), head.lookup(codes))
    assert native.build(native.describe(other)).codebook_sizes == (9, 5, 9)


def vq_of_nine(dim):
    return vq(9, dim)


def test_who_owns_which_codebook():
    """One head for all depths is one codebook, seen several times."""
    assert len(ResidualQuantizer(vq(), 3).heads) == 1  # alone or in a list
    shared, separate = in_depths(vq_of_nine, 3, 4), in_depths(vq_of_nine, 3, 4, shared=False)
    assert owners(shared) == [shared.heads[0]] * 3 and owners(separate) == list(separate.heads)
    assert [shared.owner(i) for i in range(3)] == [(shared.heads[0], 0)] * 3
    nested = factorized(partial(in_depths, vq_of_nine, 2), 2, 8)
    assert [nested.owner(i)[0] for i in range(4)] == [nested.heads[i].heads[0] for i in (0, 0, 1, 1)]
    both = ResidualQuantizer([factorized(vq_of_nine, 2, 8)], 2)
    assert [both.owner(i)[0] for i in range(4)] == [both.heads[0].heads[i] for i in (0, 1, 0, 1)]
    scales = MultiScaleQuantizer(shared)
    assert owners(scales) == [shared.heads[0]] * 3
    dynamic = DynamicQuantizer(shared, FeatureRouter(4, groups=2))
    assert owners(dynamic) == [shared.heads[0]] * 3


def test_reviving():
    torch.manual_seed(0)
    head, rows, vectors = in_depths(vq_of_nine, 2, 4), torch.arange(9) < 4, torch.randn(9, 4)
    assert torch.equal(head.revive(1, rows, vectors)["heads.0.codewords"], rows)
    assert torch.equal(head.heads[0].codewords[:4], vectors[:4])
    separate = in_depths(vq_of_nine, 2, 4, shared=False)
    before = separate.heads[0].codewords.clone()
    assert set(separate.revive(1, rows, vectors)) == {"heads.1.codewords"}
    assert torch.equal(separate.heads[0].codewords, before)
    assert torch.equal(separate.heads[1].codewords[:4], vectors[:4])
    assert "restart=0.1" in " ".join(head.advice()) and len(separate.advice()) == len(set(separate.advice()))


def test_samples_of_all_depths(monkeypatch):
    """Those of a shared codebook come from every depth alike."""
    calls = iter(range(4))
    monkeypatch.setattr(code_statistics, "sample", lambda vectors, number: torch.full((number, 4), float(next(calls))))
    head = ResidualQuantizer([vq(200, restart=0.1)], 4)
    samples = head(torch.randn(2, 4, 3, 3)).stats["heads.0.samples"]
    assert samples.shape == (200, 4)
    assert all(abs(int((samples[:, 0] == i).sum()) - 50) <= 2 for i in range(4))


def test_dead_codewords_restart():
    torch.manual_seed(0)
    head = ResidualQuantizer([vq(32, ema_decay=0.9, restart=0.1)], 3)
    head.heads[0].codewords.copy_(torch.full((32, 4), 0.01))
    z = torch.randn(4, 4, 8, 8)
    before = head(z).losses["commitment"]
    for _ in range(5):
        head.update(head(z).stats)
    assert head(z).losses["commitment"] < 0.3 * before
    assert head(z).codes.unique().numel() > 25


@pytest.mark.parametrize("dropout", ["batch", "sample"])
def test_dropout(dropout):
    """Any number of depths is decoded, equally often; codes and losses are those of all depths; gradients pass once."""
    torch.manual_seed(0)
    head = ResidualQuantizer([vq()], 3, dropout=dropout)
    z = torch.randn(8, 4, 2, 2, requires_grad=True)
    codes, losses = head.eval()(z).codes, head(z).losses
    latents = torch.stack(head.partial(codes, head.layout(2, 2)))  # (depth, b, d, h, w)
    head.train()
    seen = []
    for _ in range(60):
        quantized = head(z)
        assert torch.equal(quantized.codes, codes)
        torch.testing.assert_close(quantized.losses, losses)
        depth = (latents - quantized.latent).abs().amax((2, 3, 4)).argmin(0)  # (b,)
        expected = latents[depth, torch.arange(8)]
        torch.testing.assert_close(quantized.latent, expected)
        torch.testing.assert_close(quantized.codewords, expected)
        assert dropout == "sample" or len(depth.unique()) == 1
        seen += depth.tolist()
    counts = torch.tensor(seen).bincount(minlength=3)
    assert (counts > 0.2 * len(seen)).all()
    (gradient,) = torch.autograd.grad(quantized.latent.sum(), z)
    torch.testing.assert_close(gradient, torch.ones_like(z))


def test_near_ties_follow_the_other_path():
    """After a tie all later codes may differ; each must be the nearest to what its own earlier codes leave."""
    head = ResidualQuantizer([vq(3, 1), vq(2, 1)]).eval()
    head.heads[0].codewords.data.copy_(torch.tensor([[-1.0], [1.0], [50.0]]))
    head.heads[1].codewords.data.copy_(torch.tensor([[-1.0], [1.0]]))
    z = torch.tensor([1e-7, 0.5]).view(1, 1, 1, 2)
    ours = head.encode(z).codes
    assert ours[0].flatten(1).tolist() == [[1, 1], [0, 0]]
    theirs = torch.tensor([[0, 0], [1, 1]]).view(1, 2, 1, 2)
    assert head.near_ties(z, ours, theirs)[0].flatten(1).tolist() == [[True, False], [True, True]]
    wrong = torch.tensor([[0, 1], [0, 1]]).view(1, 2, 1, 2)
    assert head.near_ties(z, ours, wrong)[0].flatten(1).tolist() == [[True, True], [False, False]]
    assert not head.near_ties(z, ours, torch.full_like(ours, 3))[:, 0].any()


class Table0(Quantizer):
    """A head that returns no codewords and counts its calls."""

    dim, codebook_sizes = 2, (9,)
    calls = 0

    def forward(self, z, context=Context()):
        self.calls += 1
        rounded = z.clamp(-1, 1).round()
        return Quantized(StraightThrough()(z, rounded), ((rounded[:, :1] + 1) * 3 + rounded[:, 1:] + 1).long(), {})

    def encode(self, z, context=Context()):
        return Codes(self(z, context).codes)

    def lookup(self, codes, layout=None, keep=None):
        return torch.cat([codes // 3 - 1, codes % 3 - 1], dim=1).float()


def test_a_head_without_codewords_or_losses():
    head = ResidualQuantizer([Table0()], 3, factors=1 / 3)
    z = torch.randn(2, 2, 3, 3, requires_grad=True)
    quantized = head(z)
    assert quantized.losses == {} and head.table(0) is None and quantized.stats is None
    assert torch.equal(quantized.latent, head.lookup(quantized.codes))
    assert (quantized.latent - z.clamp(-1.4, 1.4)).abs().max() < 0.5 / 9 + 0.06
    torch.testing.assert_close(torch.autograd.grad(quantized.latent.sum(), z)[0], torch.ones_like(z))


def test_encode_searches_once_for_each_depth():
    head = ResidualQuantizer([Table0()], 5).eval()
    head.encode(torch.randn(1, 2, 2, 2))
    assert head.heads[0].calls == 5


def test_a_mapped_codebook_is_computed_once():
    torch.manual_seed(0)
    head, calls = ResidualQuantizer([SimVQ(16, 4)], 3), []
    head.heads[0].projection.register_forward_hook(lambda *_: calls.append(1))
    quantized = head(torch.randn(2, 4, 3, 3))
    assert len(calls) == 1
    head.lookup(quantized.codes)
    assert len(calls) == 2
    quantized.total().backward()
    assert head.heads[0].projection.weight.grad.any() and head.heads[0].computed is None


def test_updates_that_are_missing_are_reported_once():
    head, z = ResidualQuantizer([vq(ema_decay=0.9)], 4), torch.randn(1, 4, 2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head(z)
        head.update(head(z).stats)
        head.learn_alone()
        for _ in range(5):
            head(z)
    with pytest.warns(UserWarning, match="3 training batches had no update") as caught:
        head = ResidualQuantizer([vq(ema_decay=0.9)], 4)
        for _ in range(8):
            head(z)
    assert len(caught) == 1


@pytest.mark.parametrize("make, message", [
    (lambda: ResidualQuantizer([]), "heads is empty"),
    (lambda: ResidualQuantizer([vq(), vq()], 3), "depth=3 needs 3 heads, or a single one for all depths, not 2"),
    (lambda: ResidualQuantizer([vq()], 0), "depth=0 needs"),
    (lambda: ResidualQuantizer([vq()] * 2), "heads has the same head twice: a single one with depth=2"),
    (lambda: ResidualQuantizer([vq()], 2, factors=[1.0]), r"factors=\[1.0\] must be 2 numbers, one for each depth"),
    (lambda: ResidualQuantizer([vq()], 2, factors=0.0), "factors=0.0 must be above 0"),
    (lambda: ResidualQuantizer([vq()], 2, "sum"), "losses must be one of sums, steps, not 'sum'"),
    (lambda: ResidualQuantizer([vq()], 2, estimate="steps", residual_gradient="none"),
     "residual_gradient='none' with estimate='steps' leaves the latent no gradient"),
    (lambda: ResidualQuantizer([vq()], 2, dropout="image"), "dropout must be one of batch, sample, null, not 'image'"),
    (lambda: ResidualQuantizer([vq(), vq(16, 5)]), r"the heads of a ResidualQuantizer are added, but their dims are"),
    (lambda: ResidualQuantizer([DynamicQuantizer(vq(), FeatureRouter(4, groups=2))], 2),
     "a DynamicQuantizer cannot be a step of a ResidualQuantizer: the steps would choose different granularities"),
    (lambda: in_depths(partial(MultiScaleQuantizer, vq()), 2, 4, shared=False), "shared=False needs heads that do not"),
    (lambda: ResidualQuantizer([MultiScaleQuantizer(vq()), vq()]).layout(4, 4), "the depths of a latent of 4x4 have"),
])  # fmt: skip
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class ToCodes(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, z):
        codes = self.head.encode(z).codes
        return codes, self.head.lookup(codes, self.head.layout(*z.shape[2:]))


@pytest.mark.parametrize("scales", [False, True])
def test_graphs(scales):
    """Of any grid for depths; of one grid for scales."""
    torch.manual_seed(0)
    head = ResidualQuantizer([vq()], 3)
    head = (MultiScaleQuantizer(head, [1, 4], phi=1) if scales else head).eval().for_inference()
    sizes = {0: Dim("b")} | ({} if scales else {2: Dim("h"), 3: Dim("w")})
    with torch.no_grad():
        program = torch.export.export(ToCodes(head), (torch.randn(2, 4, 4, 4),), dynamic_shapes=(sizes,), strict=False)
    z = torch.randn(3, 4, 4, 4 if scales else 6)
    codes, latent = program.module()(z)
    assert torch.equal(codes, head.encode(z).codes)
    torch.testing.assert_close(latent, head(z).latent)
