"""The vector quantizer against numbers worked by hand, the authors' own values and vector-quantize-pytorch."""

from functools import partial

import pytest
import torch
from einops import rearrange

from vistok.quantizers import CodewordGradient, Context, DiVeQ, VectorQuantizer, code_statistics, factorized
from vistok.quantizers.vq import smoothed


def with_table(table, **arguments):
    head = VectorQuantizer(len(table), table.shape[1], **arguments)
    head.codewords.data.copy_(table)
    return head


def test_by_hand():
    head = with_table(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    z = torch.tensor([[1.0, 0.0], [3.0, 2.0]]).T.reshape(1, 2, 1, 2)  # (1, 0) and (3, 2)
    quantized = head(z)
    assert quantized.codes.tolist() == [[[[0, 1]]]]
    assert quantized.latent[0, :, 0].T.tolist() == [[0.0, 0.0], [4.0, 0.0]]
    # squared errors 1 and 0, then 1 and 4: their mean over 4 numbers is 1.5
    assert quantized.losses["commitment"].item() == pytest.approx(1.5)
    assert quantized.losses["codebook"].item() == pytest.approx(1.5)


def test_ema_update_by_hand():
    head = with_table(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), ema_decay=0.5).train()
    head.ema_sums.copy_(head.codewords)
    z = torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 0.0]]).T.reshape(1, 2, 1, 3)  # (1, 1), (1, 3), (3, 0)
    head.update(head(z).stats)
    counts = torch.tensor([1.5, 1.0])  # half of 1 + 2, half of 1 + 1
    assert torch.equal(head.ema_counts, counts)
    assert head.ema_sums.tolist() == [[1.0, 2.0], [3.5, 0.0]]  # half of (0, 0) + (2, 4), half of (4, 0) + (3, 0)
    torch.testing.assert_close(head.codewords, head.ema_sums / counts[:, None], rtol=1e-4, atol=0)


def test_smoothed_counts_by_hand():
    torch.testing.assert_close(smoothed(torch.tensor([0.0, 2.0]), 1.0), torch.tensor([0.5, 1.5]))


def test_restart_by_hand():
    head = with_table(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), ema_decay=0.5, restart=0.5)
    head.ema_counts.fill_(1.0)
    head.ema_sums.copy_(head.codewords)
    stats = {
        "counts": torch.tensor([3.0, 0.0]),
        "sums": torch.tensor([[3.0, 6.0], [0.0, 0.0]]),
        "samples": torch.tensor([[7.0, 7.0], [9.0, 9.0]]),
    }
    head.update(stats)
    # counts 2 and 0.5, even 1.25: below half of that, the second codeword moves onto its sample
    assert head.ema_counts.tolist() == [2.0, 1.25]
    torch.testing.assert_close(head.codewords, torch.tensor([[0.75, 1.5], [9.0, 9.0]]), rtol=1e-4, atol=0)


def test_a_codebook_with_restarts_begins_as_a_sample_of_the_data():
    torch.manual_seed(0)
    head = VectorQuantizer(8, 4, ema_decay=0.9, restart=0.1).train()
    z = torch.randn(1, 4, 16, 16) + 5
    stats = head(z).stats
    head.update(stats)
    moved = stats["counts"] == 0
    torch.testing.assert_close(head.codewords[moved], stats["samples"][moved], rtol=1e-3, atol=0)
    assert moved.any() and all((row == z[0].flatten(1).T).all(1).any() for row in stats["samples"])


def test_restart_revives_a_collapsed_codebook():
    torch.manual_seed(0)
    data = torch.randn(1, 4, 64, 64)
    used = {}
    for restart in (None, 0.1):
        head = VectorQuantizer(64, 4, ema_decay=0.9, restart=restart).train()
        head.codewords.add_(10)  # all far away on one side: a few codewords win everything
        head.ema_sums.copy_(head.codewords)
        for _ in range(60):
            head.update(head(data).stats)
        used[restart] = len(head(data).codes.unique())
    assert used[None] < 16 and used[0.1] == 64


@pytest.mark.parametrize("group, commitment, codebook", [("taming_legacy", 1.0, 0.25), ("taming_fixed", 0.25, 1.0)])
def test_taming(golden, close, group, commitment, codebook):
    values = golden("vq", group)
    head = with_table(values["codebook"])
    _check(head, values, {"commitment": commitment, "codebook": codebook}, close)


@pytest.mark.parametrize("group, cosine, entropy", [
    ("llamagen_l2norm_ent0", True, 0.0),
    ("llamagen_l2norm_enton", True, 0.1),
    ("llamagen_plain_enton", False, 0.1),
])  # fmt: skip
def test_llamagen(golden, close, group, cosine, entropy):
    values = golden("vq", group)
    head = with_table(values["codebook"], cosine=cosine, entropy_temperature=0.01 if entropy else None)
    weights = {"commitment": 0.25, "codebook": 1.0, "entropy": entropy}
    losses = _check(head, values, weights, close)
    close(0.25 * losses["commitment"], values["loss.commit"])
    close(losses["codebook"], values["loss.vq"])
    if entropy:
        close(entropy * losses["entropy"], values["loss.entropy"])


def test_enhancing_transformers(golden, close):
    """Its gradient passes to the latent before normalisation; sequences (b, t, d) are grids of one row here."""
    values = golden("vq", "enhancing")
    head = with_table(values["codebook"], cosine=True, raw_gradient=True)
    z = values["z"].requires_grad_()
    quantized = head(rearrange(z, "b t d -> b d 1 t"))
    assert torch.equal(quantized.codes[:, 0, 0], values["codes"])
    latent = rearrange(quantized.latent, "b d 1 t -> b t d")
    close(latent, values["zq"])
    loss = 0.25 * quantized.losses["commitment"] + quantized.losses["codebook"]
    close(loss, values["loss.total"])
    for kind, total in (("gradloss", loss), ("grad", loss + (values["up.zq"] * latent).sum())):
        of_z, of_table = torch.autograd.grad(total, (z, head.codewords), retain_graph=True)
        close(of_z, values[f"{kind}.z"])
        close(of_table, values[f"{kind}.codebook"])


def _check(head, values, weights, close):
    """Codes, latents, the loss and its gradients alone, and gradients with one from above."""
    z = values["z"].requires_grad_()
    quantized = head(z)
    assert torch.equal(quantized.codes.reshape(values["codes"].shape), values["codes"])
    close(quantized.latent, values["zq"])
    loss = sum(weights[name] * term for name, term in quantized.losses.items())
    close(loss, values["loss.total"])
    bound = 5e-5 if "entropy" in quantized.losses else 2e-5
    from_above = (values["up.zq"] * quantized.latent).sum()
    for kind, total in (("gradloss", loss), ("grad", loss + from_above)):
        of_z, of_table = torch.autograd.grad(total, (z, head.codewords), retain_graph=True)
        close(of_z, values[f"{kind}.z"], bound)
        close(of_table, values[f"{kind}.codebook"], bound)
    return quantized.losses


def test_taming_ema(golden, close):
    values = golden("vq", "taming_ema")
    head = with_table(values["before.weight"], ema_decay=0.99).train()
    head.ema_counts.copy_(values["before.cluster_size"])
    head.ema_sums.copy_(values["before.embed_avg"])
    for step in ("1", "2"):
        quantized = head(rearrange(values["z"], "n d -> 1 d 1 n"))
        assert torch.equal(quantized.codes.flatten(), values[f"codes{step}"])
        head.update(quantized.stats)
        close(head.ema_counts, values[f"after{step}.cluster_size"])
        close(head.ema_sums, values[f"after{step}.embed_avg"])
        close(head.codewords, values[f"after{step}.weight"])


def test_taming_ema_head(golden, close):
    """Two updates of the whole head: codes and loss are of the table before each."""
    values = golden("vq", "taming_emavq")
    head = with_table(values["before.embedding.weight"], ema_decay=0.99).train()
    head.ema_counts.copy_(values["before.embedding.cluster_size"])
    head.ema_sums.copy_(values["before.embedding.embed_avg"])
    for step in ("1", "2"):
        z = values[f"z{step}"].requires_grad_()
        quantized = head(z)
        assert torch.equal(quantized.codes[:, 0], values[f"codes{step}"])
        close(quantized.latent, values[f"zq{step}"])
        loss = 0.25 * quantized.losses["commitment"]
        close(loss, values[f"loss{step}.total"])
        for kind, total in (("gradloss", loss), ("grad", loss + (values[f"up.zq{step}"] * quantized.latent).sum())):
            close(torch.autograd.grad(total, z, retain_graph=True)[0], values[f"{kind}.z{step}"])
        head.update(quantized.stats)
        close(head.ema_counts, values[f"after{step}.embedding.cluster_size"])
        close(head.ema_sums, values[f"after{step}.embedding.embed_avg"])
        close(head.codewords, values[f"after{step}.embedding.weight"])


@pytest.mark.parametrize("group, steps, arguments", [
    ("dqvae", 2, {"restart": 1.0}),
    ("dqvae_fresh", 2, {}),
    ("dqvae_restart", 2, {"restart": 1.0}),
    ("dqvae_restart_tiled", 1, {"restart": 1.0}),
])  # fmt: skip
def test_dqvae(golden, close, monkeypatch, group, steps, arguments):
    """Moving averages, masked losses over unmasked counts, and restarts at a count of 1, with the draws recorded."""
    values = golden("dqvae", group)
    size = len(values["before.codebook.cluster_size_ema"])  # their table has a row more, for padding
    head = VectorQuantizer(size, 8, ema_decay=0.99, restart_unit="vector", weighted_counts=False, **arguments).train()
    head.codewords.copy_(values["before.codebook.weight"][:size])
    head.ema_counts.copy_(values["before.codebook.cluster_size_ema"])
    head.ema_sums.copy_(values["before.codebook.embed_ema"])
    for step in range(1, steps + 1):
        if f"randperm{step}" in values:
            monkeypatch.setattr(torch, "randperm", lambda n, device, v=values[f"randperm{step}"]: v)
        if f"rand_like{step}" in values:
            monkeypatch.setattr(torch, "rand", lambda *size, device, v=values[f"rand_like{step}"]: v)
        z = values[f"z{step}"].requires_grad_()
        weight = values[f"mask{step}"][:, 0] if f"mask{step}" in values else None
        quantized = head(z, Context(weight=weight))
        assert torch.equal(quantized.codes[:, 0], values[f"codes{step}"])
        close(quantized.latent, values[f"zq{step}"])
        # Their total adds the codebook term, which teaches nothing here and equals the commitment.
        loss = quantized.losses["commitment"]
        close(1.25 * loss, values[f"loss.total{step}"])
        for kind, total in (("gradloss", 0.25 * loss), ("grad", 0.25 * loss + _dot(values[f"up.zq{step}"], quantized))):
            (gradient,) = torch.autograd.grad(total, z, retain_graph=True)
            close(gradient, values[f"{kind}.z{step}"])
        head.update(quantized.stats)
        close(head.ema_counts, values[f"after{step}.codebook.cluster_size_ema"])
        close(head.ema_sums, values[f"after{step}.codebook.embed_ema"])
        close(head.codewords, values[f"after{step}.codebook.weight"][:size])


def _dot(upstream, quantized):
    return (upstream * quantized.latent).sum()


def test_weights_count_in_losses_and_statistics():
    head = with_table(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), ema_decay=0.5).train()
    z = torch.tensor([[1.0, 0.0], [3.0, 2.0]]).T.reshape(1, 2, 1, 2)  # (1, 0) and (3, 2)
    quantized = head(z, Context(weight=torch.tensor([[[1.0, 0.5]]])))
    # squared errors 1 + 0 and half of 1 + 4: their mean over 4 numbers is 0.875
    assert quantized.losses["commitment"].item() == pytest.approx(0.875)
    assert quantized.stats["counts"].tolist() == [1.0, 0.5]
    assert quantized.stats["sums"].tolist() == [[1.0, 0.0], [1.5, 1.0]]
    head.weighted_counts = False
    assert head(z, Context(weight=torch.tensor([[[1.0, 0.5]]]))).stats["counts"].tolist() == [1.0, 1.0]


def test_weights_in_the_entropy_are_repetitions():
    torch.manual_seed(0)
    head = VectorQuantizer(8, 4, entropy_temperature=0.5)
    torch.nn.init.normal_(head.codewords)
    z = torch.randn(1, 4, 1, 3)
    weighted = head(z, Context(weight=torch.tensor([[[2.0, 1.0, 0.0]]]))).losses["entropy"]
    repeated = head(z[..., [0, 0, 1]]).losses["entropy"]
    torch.testing.assert_close(weighted, repeated)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_kmeans_start_by_hand(ema_decay):
    """Two updates: each codeword is the mean of all that chose it, then the ordinary learning goes on."""
    head = with_table(torch.zeros(2, 1), ema_decay=ema_decay, kmeans_updates=2).train()
    samples = torch.tensor([[0.0], [10.0]])
    # All chose the first of two equal codewords; the second is dead and starts at its sample, as heavy as the mean.
    head.update({"counts": torch.tensor([4.0, 0.0]), "sums": torch.tensor([[8.0], [0.0]]), "samples": samples})
    torch.testing.assert_close(head.codewords.detach(), torch.tensor([[2.0], [10.0]]), rtol=1e-4, atol=0)
    # Counts 4 + 1 and 2 + 3, sums 8 + 3 and 20 + 36, halved.
    moved = head.update({"counts": torch.tensor([1.0, 3.0]), "sums": torch.tensor([[3.0], [36.0]]), "samples": samples})
    torch.testing.assert_close(head.codewords.detach(), torch.tensor([[11 / 5], [56 / 5]]), rtol=1e-4, atol=0)
    assert moved == {} if ema_decay else moved["codewords"].all()
    before = head.codewords.detach().clone()
    moved = head.update({"counts": torch.tensor([1.0, 1.0]), "sums": torch.tensor([[9.0], [9.0]]), "samples": samples})
    if ema_decay:
        assert not torch.equal(head.codewords, before)
    else:
        assert torch.equal(head.codewords, before) and not moved["codewords"].any()


def test_kmeans_start_finds_the_clusters():
    torch.manual_seed(0)
    centers = torch.randn(32, 4) * 5
    errors = {}
    for updates in (0, 20):
        head = VectorQuantizer(64, 4, kmeans_updates=updates).train()
        for _ in range(20):
            vectors = centers[torch.randint(32, (512,))] + 0.1 * torch.randn(512, 4)
            quantized = head(rearrange(vectors, "n d -> 1 d 1 n"))
            head.update(quantized.stats or {})
        errors[updates] = quantized.losses["commitment"].item()
    assert errors[20] < 0.02 * errors[0] and len(quantized.codes.unique()) > 32


def test_restart_of_a_codebook_that_learns_by_gradient():
    """Moving counts 0.99 · 0 + 0.01 · (30, 0); the second is below a tenth of an even count and moves."""
    head = with_table(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), restart=0.1).train()
    samples = torch.tensor([[7.0, 7.0], [9.0, 9.0]])
    moved = head.update({"counts": torch.tensor([30.0, 0.0]), "samples": samples})
    assert head.codewords.tolist() == [[0.0, 0.0], [9.0, 9.0]] and moved["codewords"].tolist() == [False, True]
    torch.testing.assert_close(head.ema_counts, torch.tensor([0.3, 0.15]))


def test_samples_are_of_the_batch_and_none_twice():
    vectors = torch.arange(20.0)[:, None]
    drawn = code_statistics.sample(vectors, 15)
    assert len(drawn.unique()) == 15 and set(drawn.flatten().tolist()) <= set(range(20))
    many = code_statistics.sample(vectors, 50)  # copies are set apart by less than 0.01
    assert many.shape == (50, 1) and len(many.unique()) == 50
    assert (many - many.round()).abs().max() <= 0.01


@pytest.mark.parametrize("cosine", [False, True])
def test_agrees_with_vector_quantize_pytorch(close, cosine):
    theirs_module = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    theirs = theirs_module.VectorQuantize(
        dim=8,
        codebook_size=64,
        use_cosine_sim=cosine,
        ema_update=cosine,  # their cosine codebook cannot be learned by gradient
        learnable_codebook=not cosine,
        rotation_trick=False,
        commitment_weight=0.25,
        commitment_use_cross_entropy_loss=False,
    )
    ours = with_table(theirs.codebook.detach(), cosine=cosine)
    z = torch.randn(2, 50, 8)
    expected, codes, _ = theirs.eval()(z)
    _, _, loss = theirs.train()(z, freeze_codebook=True)
    quantized = ours(rearrange(z, "b n d -> b d 1 n"))
    close(0.25 * quantized.losses["commitment"], loss)
    assert torch.equal(quantized.codes[:, 0, 0], codes)
    close(rearrange(quantized.latent, "b d 1 n -> b n d"), expected)


def test_entropy_is_low_for_sure_and_even_choices():
    table = torch.eye(4)
    head = with_table(table, entropy_temperature=0.01)
    even = rearrange(table, "n d -> 1 d 1 n")
    assert head(even).losses["entropy"].item() == pytest.approx(-torch.tensor(4.0).log().item(), abs=1e-3)
    one_code = even[..., :1].expand(1, 4, 1, 4)
    assert head(one_code).losses["entropy"].item() == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("arguments, message", [
    ({"codebook_size": 1}, "codebook_size must be at least 2, not 1"),
    ({"codebook_size": 8, "ema_decay": 1.5}, "ema_decay must be in"),
    ({"codebook_size": 8, "restart_unit": "image"}, "restart_unit must be even or vector, not 'image'"),
    ({"codebook_size": 8, "ema_decay": 0.9, "estimator": DiVeQ()}, "cannot go with ema_decay=0.9"),
    ({"codebook_size": 8, "ema_decay": 0.9, "estimator": CodewordGradient()}, "CodewordGradient learns the codebook"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(dim=4, **arguments)


def test_an_entropy_that_nobody_wants_is_not_computed(monkeypatch):
    head = factorized(partial(VectorQuantizer, 16, entropy_temperature=0.5), 2, 8)
    z = torch.randn(2, 8, 4, 4)
    wanted = head(z)
    monkeypatch.setattr(code_statistics, "entropy", None)  # a call would raise
    unwanted = head(z, Context(unused=("entropy",)))
    assert set(wanted.losses) - set(unwanted.losses) == {"entropy"}
    torch.testing.assert_close(unwanted.losses, {name: wanted.losses[name] for name in unwanted.losses})
