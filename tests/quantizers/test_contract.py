"""The contract of a head: what its defaults do, and that composites of one's own can be built on it."""

import re
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vistok
from vistok import quantizers
from vistok.quantizers import (
    BinaryQuantizer,
    Context,
    DynamicQuantizer,
    FactorizedQuantizer,
    FeatureRouter,
    JanusQuantizer,
    Layout,
    MappedCodebook,
    Quantized,
    Quantizer,
    RotationTrick,
    SimVQ,
    StraightThrough,
    Table,
    VectorQuantizer,
    factorized,
)
from vistok.quantizers.base import near_ties, owners


class Rounded(Quantizer):
    """-1, 0 or 1 in each of three channels: no table, no loss, nothing but what has to be written."""

    dim, codebook_sizes = 3, (27,)

    def forward(self, z, context=Context()):
        rounded = z.clamp(-1, 1).round()
        codes = sum((rounded[:, i].long() + 1) * 3**i for i in range(3))
        return Quantized(StraightThrough()(z, rounded), codes[:, None], {})

    def lookup(self, codes, layout=None, keep=None):
        return torch.cat([codes // 3**i % 3 - 1 for i in range(3)], dim=1).float()


class OneLine(MappedCodebook):
    """A learned codebook."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4))

    def codebook(self):
        return self.weight


class Residual(Quantizer):
    """Each head quantizes what those before it have left over."""

    def __init__(self, heads, estimator=StraightThrough()):
        super().__init__()
        self.heads, self.estimator, self.dim = nn.ModuleList(heads), estimator, heads[0].dim
        self.codebook_sizes = tuple(size for head in heads for size in head.codebook_sizes)
        self.loss_names = heads[0].loss_names

    def forward(self, z, context=Context()):
        total, codes, losses = torch.zeros_like(z), [], dict.fromkeys(self.loss_names, 0.0)
        for head in self.heads:
            step = head(z - total.detach(), context)
            total, codes = total + step.codewords, [*codes, step.codes]
            losses = {name: losses[name] + step.losses[name] for name in losses}
        return Quantized(self.estimator(z, total), torch.cat(codes, dim=1), losses, codewords=total)

    def lookup(self, codes, layout=None, keep=None):
        return self.partial(codes, layout)[-1]

    def partial(self, codes, layout):
        latents = []
        for head, own in zip(self.heads, codes.split(1, dim=1), strict=False):
            latents.append(head.lookup(own) + (latents[-1] if latents else 0))
        return tuple(latents)


class MultiScale(Quantizer):
    """Coarse maps first, each quantizing what those before it have left over, as VAR's tokenizer does."""

    def __init__(self, head):
        super().__init__()
        self.head, self.dim, self.codebook_sizes, self.loss_names = head, head.dim, head.codebook_sizes, head.loss_names

    def layout(self, h, w):
        sides = [2**i for i in range(h.bit_length())]
        return Layout(tuple((side, side * w // h) for side in sides))

    def forward(self, z, context=Context()):
        total, maps, losses = torch.zeros_like(z), [], {}
        for grid in self.layout(*z.shape[2:]).grids:
            step = self.head(F.adaptive_avg_pool2d(z - total, grid), context)
            maps.append(step.codes)
            total = total + F.interpolate(step.codewords, z.shape[2:])
            losses = {name: losses.get(name, 0.0) + term for name, term in step.losses.items()}
        return Quantized(StraightThrough()(z, total), self.layout(*z.shape[2:]).join(maps), losses, codewords=total)

    def lookup(self, codes, layout=None, keep=None):
        return self.partial(codes, layout)[-1]

    def partial(self, codes, layout):
        latents = []
        for own in layout.split(codes):
            step = F.interpolate(self.head.lookup(own), layout.grids[-1])
            latents.append(step + (latents[-1] if latents else 0))
        return tuple(latents)


def vq(size=16, dim=4, **arguments):
    head = VectorQuantizer(size, dim, **arguments)
    nn.init.normal_(head.codewords)
    return head


def test_defaults():
    head = Rounded().eval()
    z = torch.randn(2, 3, 4, 4)
    quantized = head(z)
    assert torch.equal(head.encode(z).codes, quantized.codes) and head.encode(z).keep is None
    assert head.layout(4, 6) == Layout(((4, 6),), 1, 1)
    assert torch.equal(*head.partial(quantized.codes, head.layout(4, 4)), quantized.latent)
    assert head.table(0) is None and head.update({}) == {} and head.revive(0, torch.ones(27).bool(), z) == {}
    assert head.loss_names == () and head.context_fields == frozenset() and head.grid_multiple == 1
    folded = head.for_inference()
    assert folded is not head and torch.equal(folded(z).latent, quantized.latent)
    assert not head.near_ties(z, quantized.codes, quantized.codes).any()
    assert "optimizer.lr" in " ".join(head.advice())
    with pytest.raises(ValueError, match="a Rounded has no codebook that another one could replace"):
        head.with_table(0, Table(torch.zeros(2, 3), "l2", torch.zeros(2, 3)))


def test_overriding_the_codebook_alone():
    torch.manual_seed(0)
    head = OneLine()
    assert head.dim == 4 and head.codebook_sizes == (8,)
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = head(z)
        assert head.lookup(quantized.codes).dtype == torch.float32
    assert torch.equal(head.lookup(quantized.codes), quantized.latent)
    quantized.total().backward()
    assert head.weight.grad.any() and z.grad.any()
    folded = head.for_inference()
    assert type(folded) is VectorQuantizer and torch.equal(folded(z).codes, quantized.codes)
    assert torch.equal(head.table(0).values, head.codebook())


@pytest.mark.parametrize("estimator", [None, RotationTrick()])
def test_residual_steps_pass_the_gradient_once(estimator):
    """A sum of D straight-through latents would pass it D times."""
    torch.manual_seed(0)
    head = Residual([vq() for _ in range(3)], *([] if estimator is None else [estimator]))
    z = torch.randn(2, 4, 3, 5, requires_grad=True)
    quantized = head(z)
    assert quantized.codes.shape == (2, 3, 3, 5) and head.codebook_sizes == (16, 16, 16)
    assert torch.equal(head.lookup(quantized.codes), quantized.latent)
    assert torch.equal(head.encode(z).codes, quantized.codes)
    upstream = torch.randn_like(z)
    (gradient,) = torch.autograd.grad(quantized.latent, z, upstream, retain_graph=True)
    if estimator is None:
        torch.testing.assert_close(gradient, upstream)
    (of_table,) = torch.autograd.grad(quantized.codewords.sum(), head.heads[2].codewords)
    assert of_table.any()


def test_depths_and_their_prefixes():
    torch.manual_seed(0)
    head = Residual([vq() for _ in range(3)]).eval()
    codes = head(torch.randn(1, 4, 2, 2)).codes
    partial_latents = head.partial(codes, head.layout(2, 2))
    assert len(partial_latents) == 3 and torch.equal(partial_latents[-1], head.lookup(codes))
    for depth, latent in enumerate(partial_latents, 1):
        assert torch.equal(head.lookup(codes[:, :depth]), latent)


def test_scales_and_their_prefixes():
    torch.manual_seed(0)
    head = MultiScale(vq()).eval()
    z = torch.randn(2, 4, 4, 4)
    quantized, layout = head(z), head.layout(4, 4)
    assert layout.grids == ((1, 1), (2, 2), (4, 4)) and layout.positions == (1, 21)
    assert quantized.codes.shape == (2, 1, 1, 21)
    maps = layout.split(quantized.codes)
    assert [tuple(m.shape) for m in maps] == [(2, 1, 1, 1), (2, 1, 2, 2), (2, 1, 4, 4)]
    assert torch.equal(layout.join(maps), quantized.codes)
    assert torch.equal(head.lookup(quantized.codes, layout), quantized.latent)
    first = quantized.codes[..., :5]
    assert len(layout.split(first)) == 2
    assert torch.equal(head.partial(quantized.codes, layout)[1], head.lookup(first, layout))
    with pytest.raises(ValueError, match="codes of 7 positions end within a scale of the grids"):
        layout.split(quantized.codes[..., :7])


def test_layouts():
    assert Layout(((4, 6),)).positions == (4, 6) and Layout(((4, 6),)).granularity_bits == 0
    assert Layout(((1, 32),)).positions == (1, 32)
    assert Layout(((4, 4),), 1, 2).granularity_bits == 4  # four regions, a bit each
    dynamic = DynamicQuantizer(factorized(partial(vq, 16), 2, 8), FeatureRouter(8, 3, groups=2))
    assert dynamic.layout(8, 4) == Layout(((8, 4),), 2, 3) and dynamic.grid_multiple == 4


@pytest.mark.parametrize("make", [
    lambda: VectorQuantizer(16, 4, cosine=True),
    lambda: factorized(partial(VectorQuantizer, 16, cosine=True), 2, 8),
    lambda: DynamicQuantizer(VectorQuantizer(16, 4, cosine=True), FeatureRouter(4, groups=2)),
])  # fmt: skip
@pytest.mark.parametrize("size", [1.0, 3e-5, 3e-7, 1e-20])
def test_folding_a_cosine_head_keeps_the_codes_of_latents_near_zero(make, size):
    """By L2 all unit codewords are about equally far from them."""
    torch.manual_seed(0)
    head = make().eval()
    z = size * torch.randn(1, head.dim, 32, 32)
    folded = head.for_inference()
    assert torch.equal(folded.encode(z).codes, head.encode(z).codes)
    assert torch.equal(folded.for_inference()(z).latent, head(z).latent)  # also twice


def test_tables():
    torch.manual_seed(0)
    head = FactorizedQuantizer([vq(8, 2), vq(16, 6, cosine=True), SimVQ(4, 3), BinaryQuantizer(5)], disentangle=False)
    first, second, third, none = (head.table(i) for i in range(4))
    assert [first.metric, second.metric, third.metric, none] == ["l2", "cosine", "l2", None]
    torch.testing.assert_close(second.search.norm(dim=1), torch.ones(16))
    assert third.values.shape == (4, 3) and not third.values.requires_grad
    janus = JanusQuantizer(8, 4).table(0)
    assert not torch.equal(janus.search * 2, janus.values) and janus.metric == "l2"


@pytest.mark.parametrize("cosine", [False, True])
def test_another_table(cosine):
    torch.manual_seed(0)
    head = FactorizedQuantizer([vq(8, 2), vq(16, 6, cosine=cosine)], disentangle=False).eval()
    values = head.table(1).values[:5]
    smaller = head.with_table(1, Table(values, head.table(1).metric, values))
    assert smaller.codebook_sizes == (8, 5) and torch.equal(smaller.table(1).values, values)
    z = torch.randn(1, 8, 4, 4)
    assert torch.equal(smaller(z).codes[:, 0], head(z).codes[:, 0])
    vectors = F.normalize(z[:, 2:], dim=1) if cosine else z[:, 2:]
    distances = torch.cdist(vectors[0].flatten(1).T, values)
    assert torch.equal(smaller(z).codes[0, 1].flatten(), distances.argmin(1))
    with pytest.raises(ValueError, match="decodes the codewords that it searches"):
        head.with_table(0, Table(torch.zeros(2, 2), "dot", torch.zeros(2, 2)))


def test_near_ties_of_all_metrics():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    a, b = torch.zeros(1, 1, 1, 1, dtype=torch.int64), torch.ones(1, 1, 1, 1, dtype=torch.int64)
    between, aside = (torch.tensor(v).view(1, 2, 1, 1) for v in ([1.0, 1.0 + 1e-6], [1.0, 1.1]))
    for metric in ("l2", "dot"):
        table = Table(rows, metric, rows)
        assert near_ties(between, a, b, table).item() and not near_ties(aside, a, b, table).item()
        biased = table._replace(bias=torch.tensor([0.1, 0.0]))
        assert near_ties(aside, a, b, biased).item() and not near_ties(between, a, b, biased).item()
    assert not near_ties(between, a, torch.full_like(b, 2), Table(rows, "l2", rows)).item()


def test_near_ties_of_bits():
    head = BinaryQuantizer(4)
    z = torch.tensor([1.0, 1e-7, -1.0, 0.1]).view(1, 4, 1, 1)
    codes = head(z).codes
    assert head.near_ties(z, codes, codes ^ 0b0100).item()  # the second channel may have either sign
    assert not head.near_ties(z, codes, codes ^ 0b0001).item()
    assert not head.near_ties(z, codes, codes + 16).item()


def test_every_codebook_has_an_owner():
    heads = [vq(), SimVQ(16, 4)]
    assert owners(FactorizedQuantizer(heads)) == heads
    shared = Residual([heads[0]] * 3)  # one head in all steps: the parts do not add up to the whole
    assert owners(shared) == [shared] * 3


def test_reviving():
    torch.manual_seed(0)
    head = factorized(partial(vq, 16, cosine=True, restart=0.1), 2, 8)
    head.update(head.train()(torch.randn(1, 8, 8, 8)).stats)
    before = [part.codewords.detach().clone() for part in head.heads]
    rows = torch.arange(16) < 4
    vectors = torch.randn(16, 4)
    assert torch.equal(head.revive(1, rows, vectors)["heads.1.codewords"], rows)
    assert torch.equal(head.heads[0].codewords, before[0]) and torch.equal(head.heads[1].codewords[4:], before[1][4:])
    torch.testing.assert_close(head.heads[1].codewords[:4].detach(), F.normalize(vectors[:4]))
    assert (head.heads[1].ema_counts[:4] == 64 / 16).all()  # as many as each codeword has in an even update
    assert SimVQ(16, 4).revive(0, rows, vectors) == {}


@pytest.mark.parametrize("shape", [(2, 64, 4, 6), (2, 24, 64)])
def test_a_head_alone(shape):
    """Grids and sequences, a loss in one number, gradients, codes and back."""
    torch.manual_seed(0)
    head = VectorQuantizer(1024, 64)
    z = torch.randn(shape, requires_grad=True)
    quantized = head(z)
    assert quantized.latent.shape == shape and quantized.codewords.shape == shape
    assert quantized.codes.shape == ((2, 1, 4, 6) if len(shape) == 4 else (2, 1, 1, 24))
    looked_up = head.lookup(quantized.codes)
    assert torch.equal(looked_up if len(shape) == 4 else looked_up[:, :, 0].mT, quantized.latent)
    total = quantized.total({"commitment": 0.25})
    assert total.ndim == 0
    torch.testing.assert_close(total, 0.25 * quantized.losses["commitment"] + quantized.losses["codebook"])
    total.backward()
    assert z.grad.any() and head.codewords.grad.any()
    with pytest.raises(ValueError, match=r"weights \['entropy'\] belong to no loss term; the terms are \['codeb"):
        quantized.total({"entropy": 1.0})


def test_no_loss_is_a_total_too():
    assert Rounded()(torch.randn(1, 3, 2, 2)).total().item() == 0


@pytest.mark.parametrize("shape", [(2, 32, 4, 4), (2, 8, 32), (64, 4), (2, 64, 4, 4, 4)])
def test_wrong_shapes(shape):
    message = r"latent has the shape \(.*\), but this VectorQuantizer takes \(b, 64, h, w\) or \(b, n, 64\)"
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(1024, 64)(torch.randn(shape))


def test_a_head_that_nobody_updates_says_so_once():
    head, z = VectorQuantizer(16, 4, ema_decay=0.9), torch.randn(1, 4, 4, 4)
    with pytest.warns(UserWarning, match=r"batches had no update: call head.update\(quantized.stats\)") as w:
        for _ in range(10):
            head(z)
    assert len(w) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = VectorQuantizer(16, 4, ema_decay=0.9)
        for _ in range(10):
            head.update(head(z).stats)
        for _ in range(10):
            VectorQuantizer(16, 4)(z)
        nested = factorized(partial(VectorQuantizer, 16, ema_decay=0.9), 2, 4)
        nested.expect_updates()  # as a training run does, whatever accumulate is
        for _ in range(10):
            nested(z)
        for _ in range(10):
            head.eval()(z)


@pytest.mark.parametrize("make", [
    lambda: VectorQuantizer(16, 4, ema_decay=0.9, restart=0.1),
    lambda: factorized(partial(VectorQuantizer, 16, ema_decay=0.9), 2, 4),
    lambda: VectorQuantizer(16, 4, kmeans_updates=3),
])  # fmt: skip
def test_a_head_that_learns_alone(make):
    """The same as with an update after each batch, one forward later; gradients may come in between."""
    batches = [torch.randn(1, 4, 8, 8, requires_grad=True) for _ in range(5)]
    torch.manual_seed(0)
    told = make()
    torch.manual_seed(1)
    for z in batches[:-1]:
        told.update(told(z).stats)
    torch.manual_seed(0)
    alone = make().learn_alone()
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for z in batches:
            quantized = alone(z)
            quantized.total().backward()
    for theirs, ours in zip(told.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(theirs, ours)
    before = {name: tensor.clone() for name, tensor in alone.state_dict().items()}
    alone.eval()(batches[0])  # what the last batch left is learned now, then nothing more
    after = {name: tensor.clone() for name, tensor in alone.state_dict().items()}
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())
    alone(batches[1])
    assert all(torch.equal(tensor, after[name]) for name, tensor in alone.state_dict().items())


def test_a_file_has_the_names_that_it_always_had():
    head = VectorQuantizer(8, 2, ema_decay=0.9)
    assert set(head.state_dict()) == {"table", "ema_counts", "ema_sums"}
    other = VectorQuantizer(8, 2, ema_decay=0.9)
    assert other.load_state_dict(head.state_dict()).missing_keys == []
    assert torch.equal(other.codewords, head.codewords)
    nested = factorized(partial(VectorQuantizer, 8), 2, 4)
    assert set(nested.state_dict()) == {"heads.0.table", "heads.1.table"}


def test_an_18_bit_code_costs_no_entropy(monkeypatch):
    head, z = BinaryQuantizer(18, spherical=False, group=18), torch.randn(1, 18, 2, 2)
    assert "entropy" in head(z).losses
    monkeypatch.setattr(head, "entropy", None)
    assert torch.equal(head.encode(z).codes, head(z, Context(unused=("entropy",))).codes)


def test_nobody_outside_asks_which_head_it_is():
    """Everything that a consumer needs is a method of the contract. Published layouts are each that of one head."""
    package = Path(vistok.__file__).parent
    parts = [name for name in quantizers.__all__ if isinstance(getattr(quantizers, name), type)]
    asks = re.compile(r"isinstance|hasattr|getattr|type\(.*\) is")
    of_a_head = re.compile(rf"\b({'|'.join(['head', 'quantizer', 'router', *parts])})\b")
    lines = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if not {"quantizers", "importers"} & {*path.parts}
        for line in path.read_text().splitlines()
        if asks.search(line) and of_a_head.search(line)
    ]
    assert not lines
