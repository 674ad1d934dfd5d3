"""What every head guarantees, tested once over all of them."""

import pytest
import torch

from vistok.export import hub
from vistok.kernels import nearest_code
from vistok.quantizers import VectorQuantizer

HEADS = {
    "vq": lambda: VectorQuantizer(32, 8),
    "vq_cosine": lambda: VectorQuantizer(32, 8, cosine=True),
    "vq_ema": lambda: VectorQuantizer(32, 8, ema_decay=0.9),
    "vq_restart": lambda: VectorQuantizer(32, 8, ema_decay=0.9, restart=0.1),
    "vq_entropy": lambda: VectorQuantizer(32, 8, cosine=True, entropy_temperature=0.1),
}


@pytest.fixture(params=HEADS)
def head(request):
    torch.manual_seed(0)
    head = HEADS[request.param]()
    torch.nn.init.normal_(head.table)
    return head


def reaches(loss, tensors):
    """Whether a loss moves any of the tensors."""
    if not loss.requires_grad:
        return False
    tensors = [t for t in tensors if t.requires_grad]
    grads = torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=True) if tensors else []
    return any(g is not None and bool(g.abs().sum() > 0) for g in grads)


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (1, 8, 3, 5), (1, 8, 1, 1)])
def test_lookup_inverts_forward(head, shape):
    head.eval()
    quantized = head(torch.randn(shape))
    assert quantized.codes.shape == (shape[0], len(head.codebook_sizes), *shape[2:])
    assert quantized.codes.dtype == torch.int64
    torch.testing.assert_close(head.lookup(quantized.codes), quantized.latent, rtol=0, atol=0)


def test_lookup_inverts_forward_under_autocast(head):
    head.eval()
    with torch.autocast("cpu", torch.bfloat16):
        quantized = head(torch.randn(2, 8, 4, 4).bfloat16())
        assert quantized.latent.dtype == torch.float32
        torch.testing.assert_close(head.lookup(quantized.codes), quantized.latent, rtol=0, atol=0)


def test_codes_do_not_depend_on_autocast(head):
    z = torch.randn(2, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        low = head(z).codes
    assert torch.equal(low, head(z).codes)


def test_codes_are_the_nearest(head):
    z = torch.randn(2, 8, 8, 8)
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 8).double()
    table = head.codebook().double()
    if head.cosine:
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
    expected = (vectors[:, None] - table).square().sum(2).argmin(1)
    assert torch.equal(head(z).codes.flatten(), expected)


def test_the_gradient_passes_straight_through(head):
    z = torch.randn(2, 8, 4, 4, requires_grad=True)
    upstream = torch.randn(2, 8, 4, 4)
    (gradient,) = torch.autograd.grad(head(z).latent, z, upstream)
    if head.cosine:  # it starts at the normalised latent
        unit = torch.nn.functional.normalize(z, dim=1)
        (upstream,) = torch.autograd.grad(unit, z, upstream)
    torch.testing.assert_close(gradient, upstream)


def test_each_loss_moves_its_own_side(head):
    z = torch.randn(2, 8, 4, 4, requires_grad=True)
    losses = head(z).losses
    assert reaches(losses["commitment"], [z])
    assert not reaches(losses["commitment"], head.parameters())
    if "codebook" in losses:
        assert reaches(losses["codebook"], head.parameters())
        assert not reaches(losses["codebook"], [z])


def test_the_terms_are_those_it_names(head):
    assert tuple(head(torch.randn(1, 8, 2, 2)).losses) == head.loss_names


def test_forward_is_pure(head):
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    head.train()(torch.randn(2, 8, 4, 4))
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_folding_keeps_codes_and_latents(head):
    z = torch.randn(2, 8, 6, 6) * 3
    folded = head.eval().fold()
    assert type(folded) is VectorQuantizer and not folded.cosine and folded is not head
    assert torch.equal(folded(z).codes, head(z).codes)
    torch.testing.assert_close(folded(z).latent, head(z).latent, rtol=0, atol=0)


def test_folding_draws_no_random_number(head):
    before = torch.get_rng_state()
    head.fold()
    assert torch.equal(torch.get_rng_state(), before)


def test_state_dict_round_trip(head):
    other = hub.build(hub.describe(head))
    other.load_state_dict(head.state_dict())
    z = torch.randn(2, 8, 4, 4)
    assert torch.equal(other(z).codes, head(z).codes)


def test_no_matrix_of_all_scores_is_kept_for_backward(head):
    n, size = 4096, 32
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        head(torch.randn(1, 8, 64, 64, requires_grad=True))
    assert max(kept) < n * size


def test_nearest_code_agrees_over_parts(monkeypatch):
    z, table = torch.randn(1000, 8), torch.randn(50, 8)
    whole = nearest_code(z, table)
    monkeypatch.setattr("vistok.kernels.nearest.SCORES_AT_ONCE", 700)
    assert torch.equal(nearest_code(z, table), whole)
