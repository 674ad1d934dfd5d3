"""Guarantees of every head, tested once over all heads, their variants and nestings."""

from functools import partial
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from vistok import configuration
from vistok.formats import native
from vistok.quantizers import (
    FSQ,
    IBQ,
    BinaryQuantizer,
    Context,
    DiVeQ,
    DynamicQuantizer,
    EntropyRouter,
    FactorizedQuantizer,
    FeatureRouter,
    GumbelQuantizer,
    MappedCodebook,
    MaskedQuantizer,
    MultiScaleQuantizer,
    ResidualQuantizer,
    RotationTrick,
    SFDiVeQ,
    SimVQ,
    VectorQuantizer,
    VQBridge,
    base,
    code_statistics,
    factorized,
    in_depths,
)
from vistok.quantizers.base import single_heads
from vistok.tiles.stitching import refuse_global
from vistok.training.ema import AveragedTokenizer

from ..conftest import compose

vq = partial(VectorQuantizer, 32)
bridge = partial(VQBridge, 32, size="XS", patch=2)


def dynamic(head, grains=2):
    return DynamicQuantizer(head, FeatureRouter(8, grains, groups=4), rates=[0.6 / (grains - 1)] * (grains - 1))


SINGLE = {
    "vq": lambda: vq(8),
    "vq_cosine": lambda: vq(8, cosine=True),
    "vq_cosine_raw": lambda: vq(8, cosine=True, raw_gradient=True),
    "vq_entropy": lambda: vq(8, cosine=True, entropy_temperature=0.1),
    "vq_restart": lambda: vq(8, restart=0.1),
    "vq_kmeans": lambda: vq(8, kmeans_updates=3),
    "vq_ema": lambda: vq(8, ema_decay=0.9),
    "vq_ema_restart": lambda: vq(8, ema_decay=0.9, restart=0.1),
    "vq_ema_kmeans": lambda: vq(8, ema_decay=0.9, restart=1.0, restart_unit="vector", kmeans_updates=2),
    "vq_ema_cosine": lambda: vq(8, ema_decay=0.9, cosine=True, restart=0.1),
    "vq_rotation": lambda: vq(8, estimator=RotationTrick()),
    "vq_diveq": lambda: vq(8, estimator=DiVeQ()),
    "vq_cosine_diveq": lambda: vq(8, cosine=True, estimator=DiVeQ(std=0.0)),
    "simvq": lambda: SimVQ(32, 8),
    "simvq_basis": lambda: SimVQ(32, 8, trainable_basis=True),
    "simvq_rotation": lambda: SimVQ(32, 8, estimator=RotationTrick()),
    "simvq_diveq": lambda: SimVQ(32, 8, estimator=DiVeQ()),
    "vqbridge_vit": lambda: bridge(8),
    "vqbridge_dit": lambda: bridge(8, variant="dit"),
    "vqbridge_square": lambda: VQBridge(36, 8, size="XS", patch=3, depth=1),
    "vqbridge_rotation": lambda: bridge(8, estimator=RotationTrick()),
    "bsq": lambda: BinaryQuantizer(8),
    "bsq_group": lambda: BinaryQuantizer(8, group=4),
    "lfq": lambda: BinaryQuantizer(8, spherical=False, temperature=0.1, group=8),
    "lfq_codebooks": lambda: BinaryQuantizer(8, False, group=None, num_codebooks=2, pooled=True, batch_weight=0.5),
    "bsq_codebooks": lambda: BinaryQuantizer(8, num_codebooks=2, sample_weight=0.5),
    "gumbel": lambda: GumbelQuantizer(32, 8),
    "sf_diveq": lambda: SFDiVeQ(32, 8),
    "sf_diveq_start": lambda: SFDiVeQ(32, 8, std=0, skip_updates=2, mean_updates=1),
    "ibq": lambda: IBQ(32, 8),
    "ibq_plain": lambda: IBQ(32, 8, entropy_temperature=None),
    "fsq": lambda: FSQ([8, 7, 5, 5, 4, 3, 3, 6]),
    "fsq_symmetric": lambda: FSQ([2, 3, 4, 5, 2, 2, 2, 2], symmetric=True),
}
COMPOSED = {
    "fq": lambda: factorized(partial(vq, cosine=True, entropy_temperature=0.1), 2, 8),
    "fq_4": lambda: factorized(vq, 4, 8),
    "fq_ema": lambda: factorized(partial(vq, ema_decay=0.9, restart=0.1), 2, 8),
    "fq_simvq": lambda: factorized(partial(SimVQ, 32), 2, 8),
    "fq_vqbridge": lambda: factorized(bridge, 2, 8),
    "fq_mixed": lambda: FactorizedQuantizer([vq(2, cosine=True), SimVQ(16, 6)], disentangle=False),
    "fq_gumbel": lambda: factorized(partial(GumbelQuantizer, 32), 2, 8),
    "fq_ibq": lambda: factorized(partial(IBQ, 32), 2, 8),
    "fq_fsq": lambda: factorized(partial(FSQ, 5), 2, 8),
    "fq_bsq": lambda: factorized(BinaryQuantizer, 2, 8),
    "fq_rotation": lambda: factorized(partial(vq, estimator=RotationTrick()), 2, 8),
    "dqvae": lambda: dynamic(vq(8, ema_decay=0.9, restart=1.0, restart_unit="vector")),
    "dqvae_triple": lambda: dynamic(vq(8, ema_decay=0.9), grains=3),
    "dqvae_entropy": lambda: DynamicQuantizer(vq(8), EntropyRouter([2.8], patch=8)),
    "dqvae_vq_entropy": lambda: dynamic(vq(8, cosine=True, entropy_temperature=0.1)),
    "dqvae_simvq": lambda: dynamic(SimVQ(32, 8)),
    "dqvae_vqbridge": lambda: dynamic(bridge(8)),
    "dqvae_lfq": lambda: dynamic(BinaryQuantizer(8, spherical=False, group=2)),
    "dqvae_gumbel": lambda: dynamic(GumbelQuantizer(32, 8)),
    "dqvae_ibq": lambda: dynamic(IBQ(32, 8)),
    "dqvae_fsq": lambda: dynamic(FSQ(5, 8)),
    "dqvae_fq": lambda: dynamic(factorized(partial(SimVQ, 32), 2, 8)),
    "masked": lambda: MaskedQuantizer(
        vq(8, ema_decay=0.9, restart=0.1), VectorQuantizer(16, 8, ema_decay=0.9, restart=0.1)
    ),
    "residual_separate": lambda: in_depths(partial(vq, ema_decay=0.9, restart=0.1), 3, 8, shared=False),
    "residual_cosine": lambda: ResidualQuantizer([vq(8, cosine=True)], 2, losses="steps"),
    "residual_vqbridge": lambda: ResidualQuantizer([bridge(8)], 3, estimator=RotationTrick()),
    "residual_bsq": lambda: ResidualQuantizer([BinaryQuantizer(8)], 3, "steps", estimate="steps", factors=0.5),
    "residual_fsq": lambda: ResidualQuantizer([FSQ(5, 8)], 2, estimate="heads", factors=0.25),
    "residual_mixed": lambda: ResidualQuantizer([factorized(vq, 2, 8), SimVQ(16, 8)], factors=[1.0, 0.7]),
    "fq_residual": lambda: factorized(partial(in_depths, vq, 2), 2, 8),
    "dqvae_residual": lambda: dynamic(ResidualQuantizer([vq(8, ema_decay=0.9)], 2)),
    "multiscale_ema": lambda: MultiScaleQuantizer(vq(8, ema_decay=0.9, restart=0.1), phi=1),
    "multiscale_simvq": lambda: MultiScaleQuantizer(SimVQ(32, 8), phi=0, residual_gradient="both", factors=0.9),
    "multiscale_residual": lambda: MultiScaleQuantizer(ResidualQuantizer([vq(8)], 2)),
    "residual_multiscale": lambda: ResidualQuantizer([MultiScaleQuantizer(vq(8), "infinity")], 2),
    "fq_multiscale": lambda: FactorizedQuantizer([MultiScaleQuantizer(head) for head in (vq(2), SimVQ(16, 6))], False),
}
CONFIGS = Path(__file__).parent.parent.parent / "configs"
SMALL = {"vqbridge": ["quantizer.size=XS", "quantizer.patch=2"], "dqvae_entropy": ["quantizer.router.patch=8"]}


def from_yaml(name):
    """The head of a YAML, as small as the others: a new one is tested without a line here."""
    words = [f"quantizer={name}", "model.latent_dim=8", "model.codebook_size=32", *SMALL.get(name, [])]
    return configuration.instantiate(compose("train", *words).quantizer)


YAML = {f"{path.stem}.yaml": partial(from_yaml, path.stem) for path in sorted((CONFIGS / "quantizer").glob("*.yaml"))}
HEADS = SINGLE | COMPOSED | YAML


def make(name):
    """A head whose codewords are apart, as in the middle of a training run."""
    torch.manual_seed(0)
    head = HEADS[name]()
    for part in single_heads(head):
        if isinstance(part, VectorQuantizer):
            torch.nn.init.normal_(part.codewords)
        if isinstance(part, VQBridge):
            for parameter in part.bridge.parameters():
                if parameter.requires_grad and not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.2)
            torch.nn.init.normal_(part.bridge.recover.weight, std=0.3)
    return head


@pytest.fixture(params=HEADS)
def head(request):
    return make(request.param)


@pytest.fixture(params=SINGLE)
def single(request):
    return make(request.param)


def inputs(head, b=2, h=4, w=4, **arguments):
    """A latent and a context for it; sides in the coarsest positions that the head needs."""
    h, w = h * head.grid_multiple, w * head.grid_multiple
    context = Context(images=torch.rand(b, 3, 4 * h, 4 * w) * 2 - 1)
    return torch.randn(b, 8, h, w, **arguments), context


def looked_up(head, codes, z):
    """Latent of codes, on the grid of the latent (b, d, h, w) that they are of."""
    return head.lookup(codes, head.layout(*z.shape[2:]))


def reaches(loss, tensors):
    """True if a loss has a gradient to any of the tensors."""
    if not loss.requires_grad:
        return False
    tensors = [t for t in tensors if t.requires_grad]
    grads = torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=True) if tensors else []
    return any(g is not None and bool(g.abs().sum() > 0) for g in grads)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("b, h, w", [(2, 4, 4), (1, 3, 5), (1, 1, 1)])
def test_lookup_inverts_forward(head, b, h, w):
    head.eval()
    z, context = inputs(head, b, h, w)
    quantized = head(z, context)
    assert quantized.latent.shape == z.shape
    layout = head.layout(*z.shape[2:])
    assert quantized.codes.shape == (b, len(head.codebook_sizes), *layout.positions)
    assert layout.positions == tuple(z.shape[2:]) or len(layout.grids) > 1
    assert quantized.codes.dtype == torch.int64
    same(looked_up(head, quantized.codes, z), quantized.latent)
    if len(layout.grids) == 1:
        same(head.lookup(quantized.codes), quantized.latent)


def test_codes_of_a_tile_are_those_of_the_full_latent(head):
    """Else tiles are refused."""
    try:
        refuse_global(head.eval(), "tile=64")
    except ValueError as error:
        assert str(error).startswith(f"tile=64: a {type(head).__name__} ")
        return
    z, context = inputs(head, h=6, w=8)
    y, x = (slice(at * head.grid_multiple, (at + 3) * head.grid_multiple) for at in (2, 4))
    assert torch.equal(head.encode(z[..., y, x].contiguous()).codes, head.encode(z, context).codes[..., y, x])


def test_encode_gives_the_codes_of_forward_and_computes_no_loss(head, monkeypatch):
    head.eval()
    z, context = inputs(head)
    quantized = head(z, context)
    monkeypatch.setattr(base, "squared_error", None)  # a call would raise
    for name in ("entropy", "count", "sample"):
        monkeypatch.setattr(code_statistics, name, None)
    monkeypatch.setattr(BinaryQuantizer, "entropy", None)
    for dtype in (None, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            codes, keep = head.encode(z, context)
        assert torch.equal(codes, quantized.codes) and codes.dtype == torch.int64
        assert (keep is None) == (quantized.keep is None) and (keep is None or torch.equal(keep, quantized.keep))
    h, w = z.shape[2:]
    layout = head.layout(h, w)
    assert (layout.positions, layout.codebooks) == (tuple(codes.shape[2:]), codes.shape[1])
    assert (layout.granularities > 1) == (keep is not None)
    same(head.lookup(codes, layout, keep), quantized.latent)
    same(head.partial(codes, layout)[-1], quantized.latent)


def test_the_latent_before_the_estimator(head):
    """In training and evaluation the codewords themselves, differentiable to the tables."""
    for mode in (True, False):
        z, context = inputs(head)
        quantized = head.train(mode)(z, context)
        same(quantized.codewords, looked_up(head, quantized.codes, z))
    learned = [part for part in single_heads(head) if any(p.requires_grad for p in part.parameters())]
    assert all(reaches(quantized.codewords.sum(), part.parameters()) for part in learned)


def test_tables_are_what_is_searched_and_looked_up(head):
    head.eval()
    z, context = inputs(head)
    codes, latent = head.encode(z, context).codes, head(z, context).latent
    tables = [head.table(i) for i in range(len(head.codebook_sizes))]
    assert all(table is None or len(table.search) == n for table, n in zip(tables, head.codebook_sizes, strict=True))
    if None in tables:
        return
    inference = head.for_inference()
    for i, table in enumerate(tables):
        same(inference.table(i).values, table.values)
    if head.dim == sum(table.values.shape[1] for table in tables) and len(head.layout(*z.shape[2:]).grids) == 1:
        found = [F.embedding(codes[:, i], table.values).movedim(-1, 1) for i, table in enumerate(tables)]
        same(torch.cat(found, dim=1), latent)
    else:  # they are added: see the files of these heads
        assert any(isinstance(part, ResidualQuantizer | MultiScaleQuantizer) for part in head.modules())


def test_lookup_inverts_forward_under_autocast(head):
    head.eval()
    z, context = inputs(head)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = head(z.bfloat16(), context)
        assert quantized.latent.dtype == torch.float32
        same(looked_up(head, quantized.codes, z), quantized.latent)


def test_lookup_inverts_forward_of_averaged_weights(head):
    """An average of weights is a head like any other, whatever the original does meanwhile."""
    z, context = inputs(head)
    model = torch.nn.ModuleDict({"quantizer": head, "decoder": torch.nn.Linear(1, 1)})
    average = AveragedTokenizer(model, 0.5)
    parameters = [p for p in head.parameters() if p.requires_grad]
    for _ in range(3):
        quantized = head.train()(z, context)
        loss = sum(quantized.losses.values()) + quantized.latent.square().mean()
        if parameters:
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                p.data.sub_(torch.zeros_like(p) if g is None else 0.5 * g)
        moved = head.update(quantized.stats or {})
        average.update(model)
        average.copy_rows(model, {f"quantizer.{name}": rows for name, rows in moved.items()})
    for evaluated in (average.tokenizer["quantizer"].eval(), head.eval()):
        quantized = evaluated(z, context)
        same(looked_up(evaluated, quantized.codes, z), quantized.latent)
        same(evaluated.for_inference()(z, context).latent, quantized.latent)


def test_codes_do_not_depend_on_autocast(head):
    head.eval()
    z, context = inputs(head, h=8, w=8)
    with torch.autocast("cpu", torch.bfloat16):
        low = head(z, context).codes
    assert torch.equal(low, head(z, context).codes)


def test_codes_are_the_nearest(head):
    """By brute force in float64; of codewords as near as float32 can tell, any."""
    seen = []
    for part in single_heads(head):
        part.register_forward_hook(lambda part, args, out: seen.append((part, args[0], out.codes)))
    z, context = inputs(head, h=8, w=8)
    head.eval()(z, context)
    wanted = len(head.codebook_sizes) * len(head.layout(*z.shape[2:]).grids)
    assert sum(codes.shape[1] for _, _, codes in seen) == wanted
    for part, latent, codes in seen:
        table = part.table(0)
        if table is None and not isinstance(part, BinaryQuantizer):  # FSQ rounds; test_fsq.py has its formula
            continue
        k = codes.shape[1]
        vectors = rearrange(part.compared(latent.detach()), "b (k d) h w -> (b k h w) d", k=k).double()
        rows = part.codebook().detach() if table is None else table.search
        if table is not None and table.metric == "dot":
            bias = 0 if table.bias is None else table.bias.double()
            distances = (scores := vectors @ rows.double().T + bias).amax(1, keepdim=True) - scores
        else:
            distances = (vectors[:, None] - rows.double()).square().sum(2)
        chosen = distances.gather(1, codes.flatten()[:, None])[:, 0]
        assert (chosen <= distances.amin(1) * (1 + 1e-5) + 1e-9).all()


def test_evaluation_is_deterministic(head):
    head.eval()
    z, context = inputs(head)
    first, second = head(z, context), head(z, context)
    same(first.latent, second.latent)
    assert torch.equal(first.codes, second.codes)


def test_in_evaluation_the_gradient_passes_straight_through(single):
    if isinstance(single, GumbelQuantizer):
        pytest.skip("a sampled code has a gradient in training only")
    single.eval()
    z, upstream = torch.randn(2, 8, 4, 4, requires_grad=True), torch.randn(2, 8, 4, 4)
    (gradient,) = torch.autograd.grad(single(z).latent, z, upstream)
    if isinstance(single, VectorQuantizer) and single.cosine and not single.raw_gradient:  # to the unit latent
        (upstream,) = torch.autograd.grad(F.normalize(z, dim=1), z, upstream)
    if isinstance(single, BinaryQuantizer):  # that of the sign, times the length of a coordinate
        u = F.normalize(z, dim=1) if single.spherical else z
        (upstream,) = torch.autograd.grad(u * single.length, z, upstream)
    if isinstance(single, FSQ):  # that of the bounded latent, as a value from -1 to 1
        (upstream,) = torch.autograd.grad(single.compared(z), z, upstream)
    torch.testing.assert_close(gradient, upstream)


def test_in_training_the_value_is_the_codeword(head):
    """To the last bit, for all estimators but DiVeQ, which moves the latent there itself."""
    if any(isinstance(part, SFDiVeQ) for part in single_heads(head)):
        pytest.skip("in training the latent moves to a point between codewords")
    z, context = inputs(head)
    quantized = head.train()(z, context)
    if any(isinstance(part.estimator, DiVeQ) for part in single_heads(head)):
        torch.testing.assert_close(quantized.latent, looked_up(head, quantized.codes, z), rtol=0.02, atol=0.02)
    else:
        same(quantized.latent, looked_up(head, quantized.codes, z))


def test_each_loss_moves_its_own_side(head):
    z, context = inputs(head, requires_grad=True)
    losses = head.train()(z, context).losses
    if "commitment" not in head.loss_names:
        pytest.skip("the head has no commitment loss")
    tables = [p for part in single_heads(head) for p in part.parameters()]
    assert reaches(losses["commitment"], [z])
    assert not reaches(losses["commitment"], tables)
    if "codebook" in losses:
        assert not reaches(losses["codebook"], [z])
        learned = [part for part in single_heads(head) if any(True for _ in part.parameters())]
        assert all(reaches(losses["codebook"], part.parameters()) for part in learned or [head])


def test_every_channel_has_its_share_of_the_commitment(head):
    if "commitment" not in head.loss_names:
        pytest.skip("the head has no commitment loss")
    z, context = inputs(head, requires_grad=True)
    (gradient,) = torch.autograd.grad(head(z, context).losses["commitment"], z)
    assert gradient.abs().sum((0, 2, 3)).gt(0).all()


def test_the_terms_are_those_it_names(head):
    assert tuple(head(*inputs(head)).losses) == head.loss_names


def test_forward_is_pure(head):
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    stats = head.train()(*inputs(head)).stats or {}
    assert not any(value.requires_grad for value in stats.values())
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_an_update_moves_what_it_says(head):
    """Statistics are None where a head learns by gradient alone, and a loop hands them on all the same."""
    stats = head.train()(*inputs(head)).stats
    assert head.update(None) == {}
    before = {name: tensor.detach().clone() for name, tensor in head.named_parameters()}
    moved = head.update(stats)
    for name, tensor in head.named_parameters():
        rows = (tensor != before[name]).reshape(len(tensor), -1).any(1)
        assert not (rows & ~moved.get(name, torch.zeros_like(rows))).any(), name


def test_gradients_are_finite_under_bfloat16(head):
    z, context = inputs(head, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = head.train()(z, context)
        loss = quantized.latent.square().sum() + sum(quantized.losses.values())
    wanted = [z, *(p for p in head.parameters() if p.requires_grad)]
    for gradient in torch.autograd.grad(loss, wanted, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


def test_the_head_for_inference(head):
    head.eval()
    z, context = inputs(head, h=6, w=6)
    z = z * 3
    folded = head.for_inference()
    assert folded is not head and not folded.training
    for part, former in zip(single_heads(folded), single_heads(head), strict=True):
        assert type(part) is (VectorQuantizer if isinstance(former, MappedCodebook) else type(former))
        assert not any(p.requires_grad for p in part.parameters())
    same(folded(z, context).latent, head(z, context).latent)
    assert torch.equal(folded(z, context).codes, head(z, context).codes)


def test_folding_draws_no_random_number(head):
    before = torch.get_rng_state()
    head.for_inference()
    assert torch.equal(torch.get_rng_state(), before)


def test_state_dict_round_trip(head):
    head.eval()
    other = native.build(native.describe(head)).eval()
    other.load_state_dict(head.state_dict())
    z, context = inputs(head)
    assert torch.equal(other(z, context).codes, head(z, context).codes)
    assert native.describe(other) == native.describe(head)


@pytest.mark.parametrize("wrong", [-1, 32, 2**40])
def test_codes_out_of_range(head, wrong):
    layout = head.layout(4, 4)
    codes = torch.zeros(1, len(head.codebook_sizes), *layout.positions, dtype=torch.int64)
    codes[0, -1, -1, 2] = wrong if wrong != 32 else head.codebook_sizes[-1]
    size = head.codebook_sizes[-1]
    with pytest.raises(ValueError, match=rf"codes hold {codes[0, -1, -1, 2]}, but .* the codes 0 to {size - 1}"):
        head.lookup(codes, layout)


def test_codes_of_another_number_of_codebooks(head):
    k = len(head.codebook_sizes)
    with pytest.raises(ValueError, match=rf"codes have the shape .* not \(b, {k}, h, w\)"):
        head.lookup(torch.zeros(1, k + 1, *head.layout(4, 4).positions, dtype=torch.int64), head.layout(4, 4))


def test_no_matrix_of_all_scores_is_kept_for_backward(head):
    z, context = inputs(head, b=1, h=64, w=64, requires_grad=True)
    z, context = z[..., :64, :64], context._replace(images=context.images[..., :256, :256])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        head(z, context)
    assert max(kept) < 4096 * min(head.codebook_sizes)


@pytest.mark.parametrize("name", ["vq", "vq_cosine", "vq_rotation", "vq_ema_restart", "simvq", "vqbridge_vit", "bsq",
                                  "fsq", "ibq", "fq", "fq_simvq", "residual_mixed",
                                  pytest.param("multiscale.yaml", marks=pytest.mark.slow)])  # fmt: skip
def test_compiling_breaks_no_graph(name):
    """Captured whole, and with the same codes and losses; ``eager`` leaves the generated code out."""
    head = make(name)
    torch.compiler.reset()
    z = torch.randn(2, 8, 4, 4)
    for mode in (True, False):
        head.train(mode)
        compiled = torch.compile(head, fullgraph=True, backend="eager")
        ours, theirs = head(z), compiled(z)
        assert torch.equal(ours.codes, theirs.codes)
        torch.testing.assert_close(ours.losses, theirs.losses)


@pytest.mark.slow
def test_compiled_code_agrees():
    head = make("fq")
    torch.compiler.reset()
    z = torch.randn(2, 8, 8, 8, requires_grad=True)
    results = []
    for run in (head, torch.compile(head, fullgraph=True)):
        quantized = run(z)
        loss = quantized.latent.square().mean() + sum(quantized.losses.values())
        results.append((quantized.codes, loss, *torch.autograd.grad(loss, [z, *head.parameters()])))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1:], results[1][1:])


@pytest.mark.parametrize("make_head", [
    lambda: VectorQuantizer(16384, 8),
    lambda: VectorQuantizer(16384, 8, ema_decay=0.9),
    lambda: VectorQuantizer(16384, 8, cosine=True, entropy_temperature=0.1),
    lambda: SimVQ(16384, 8),
    lambda: VQBridge(16384, 8, size="XS", patch=2),  # 4,096 tokens, whose attention would be 256 MiB
])  # fmt: skip
def test_a_training_step_of_a_large_codebook_is_small(allocated, make_head):
    """Forward, backward and update in an eighth of a matrix of scores, 16 MiB; VQBridge's layers take the rest."""
    head = make_head().train()
    z = torch.randn(2, 8, 32, 32, requires_grad=True)

    def step():
        quantized = head(z)
        (quantized.latent.square().mean() + sum(quantized.losses.values())).backward()
        head.update(quantized.stats or {})

    bound = 48 if isinstance(head, VQBridge) else 16
    assert 2**20 < allocated(step) < bound * 2**20
