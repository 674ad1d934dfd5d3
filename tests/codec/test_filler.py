"""The model for lost codes, and the baselines it is compared with."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vistok.codec import concealment
from vistok.codec.codec_folder import load, load_filler
from vistok.codec.coder import FILLER, Rate, save_filler
from vistok.codec.filler import Filler, windows
from vistok.codec.filler_training import cross_entropy, draw, fit, standardise
from vistok.codec.frequencies import gather
from vistok.codec.reduction import tables_of
from vistok.quantizers.vq import plain


def test_windows_put_every_position_near_a_centre():
    starts, of = windows(40, 16)
    assert starts.tolist() == [0, 8, 16, 24]
    at = torch.arange(40) - starts[of]
    assert (at >= 0).all() and (at < 16).all()
    assert ((at >= 4) & (at < 12))[4:36].all()
    assert windows(16, 16)[0].tolist() == [0] and windows(17, 16)[0].tolist() == [0, 1]


def test_lost_codewords_are_not_read():
    torch.manual_seed(0)
    filler = Filler(4, width=16, depth=2, num_heads=2, window=4).eval()
    latent, known = torch.randn(4, 7, 3), torch.rand(7, 3) < 0.6
    changed = torch.where(known, latent, torch.randn(4, 7, 3))
    assert torch.equal(filler.queries(latent, known), filler.queries(changed, known))
    assert filler.queries(latent, known).shape == ((~known).sum(), 8)


def test_queries_of_a_window_are_those_of_the_model():
    torch.manual_seed(0)
    filler = Filler(4, width=16, depth=2, num_heads=2, window=4).eval()
    latent, known = torch.randn(4, 4, 4), torch.rand(4, 4) < 0.6
    torch.testing.assert_close(filler.queries(latent, known), filler(latent[None], known[None])[0][:, ~known].T)
    wide, seen = torch.randn(4, 6, 6), torch.ones(6, 6, dtype=torch.bool)
    seen[4, 4] = False  # lies in the middle of the last window, which begins at 2, 2
    theirs = filler(wide[None, :, 2:, 2:], seen[None, 2:, 2:])[0, :, 2, 2]
    torch.testing.assert_close(filler.queries(wide, seen)[0], theirs)


def test_chances_by_hand():
    filler = Filler(3, width=8, depth=1, num_heads=1, window=2)
    filler.deviation[2] = 2.0
    tables = [torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[4.0], [0.0]])]
    counts = [torch.tensor([3, 1]), torch.tensor([1, 1])]
    first, second = filler.log_probabilities(torch.tensor([[2.0, 5.0, 0.5, -1.0, 0.0, 0.25]]), tables, counts)
    e = torch.tensor(1.0).exp()  # 2 - 1, where the codeword is 1; 0.5 · 2 + 0.25 · 4 where it is 4 / 2
    torch.testing.assert_close(first.exp()[0, 1], e / (3 + e))
    torch.testing.assert_close(second.exp()[0, 0], torch.tensor(2.0).sigmoid())


def test_baselines_by_hand():
    known = torch.tensor([[True, False], [False, False]])
    latent = torch.tensor([[[3.0, 9.0], [9.0, 9.0]]])
    assert concealment.neighbour_copy(latent, known).tolist() == [[[3, 3], [3, 3]]]
    assert concealment.neighbour_mean(latent, known).tolist() == [[[3, 3], [3, 3]]]
    tables, counts = [torch.tensor([[0.0], [8.0]])], [torch.tensor([3, 1])]
    assert concealment.mean_codeword(latent, known, tables, counts).tolist() == [[[3, 2], [2, 2]]]
    known = torch.tensor([[True, False, False, True]])
    latent = torch.tensor([[[2.0, 0.0, 0.0, 4.0]]])
    assert concealment.neighbour_mean(latent, known).tolist() == [[[2, 2, 4, 4]]]


def smooth_grids(number, side, rng):
    """Codes (number, 1, side, side) of planes: each is told by its neighbours."""
    y, x = np.mgrid[:side, :side]
    slopes, middle = rng.uniform(-0.3, 0.3, (2, number, 1, 1)), rng.uniform(0, 15, (number, 1, 1))
    planes = middle + slopes[0] * (y - side / 2) + slopes[1] * (x - side / 2)
    return planes.round().clip(0, 15).astype(np.int32)[:, None]


def test_it_learns_what_can_be_known():
    """On planes a trained filler beats the frequencies alone by far, and its fillings beat the mean codeword."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    table = torch.stack([torch.linspace(-1, 1, 16), torch.zeros(16)], 1)
    grids = smooth_grids(200, 8, rng)
    rate = Rate(plain(table), (gather(table, grids[:, 0]),))
    codec = SimpleNamespace(rates=[rate])
    filler = Filler(2, width=32, depth=2, num_heads=2, window=6)
    standardise(filler, codec)
    losses = fit(filler, codec, [grids], updates=150, batch_size=8, lr=3e-3, seed=0)
    share = rate.counts[0].double() / rate.counts[0].sum()
    entropy = float(-(share * share.log2()).sum())
    assert np.mean(losses[-20:]) < 0.6 * entropy and losses[0] > 0.9 * entropy
    codes = torch.from_numpy(smooth_grids(1, 12, rng)).long()
    latent = rate.head.lookup(codes)[0]
    known = torch.from_numpy(rng.random((12, 12)) > 0.2)
    filled = concealment.fill(filler, latent, known, [table], rate.counts)
    mean = concealment.mean_codeword(latent, known, [table], rate.counts)
    assert torch.equal(filled[:, known], latent[:, known])
    assert (filled - latent).square().sum() < 0.3 * (mean - latent).square().sum()
    guessed = concealment.fill(filler, latent, known, [table], rate.counts, mean=False)
    assert torch.isin(guessed[0], table[:, 0]).all()


def test_cross_entropy_sums_codebooks(codec):
    k = len(codec.rates[0].sizes)
    torch.manual_seed(0)
    filler = Filler(4 * k, width=8, depth=1, num_heads=1, window=4)
    grids = np.random.default_rng(0).integers(0, 20, (3, k, 8, 8)).astype(np.int32)
    codes, hidden = draw(grids, 4, 5, np.random.default_rng(1))
    assert codes.shape == (5, k, 4, 4) and hidden.any((1, 2)).all()
    rate = codec.rates[0]
    latent = rate.head.lookup(codes)
    loss = cross_entropy(filler, latent, codes, hidden, tables_of(rate.head), rate.counts)
    queries = filler(latent, ~hidden)
    by_hand = 0.0
    for b, y, x in hidden.nonzero().tolist():
        chances = filler.log_probabilities(queries[b, :, y, x][None], tables_of(rate.head), rate.counts)
        by_hand -= sum(p[0, codes[b, i, y, x]] for i, p in enumerate(chances))
    torch.testing.assert_close(loss, by_hand / hidden.sum())


def test_saved_with_a_codec(codec, picture, tmp_path):
    codec.save(tmp_path)
    torch.manual_seed(0)
    filler = Filler(codec.tokenizer.quantizer.dim, width=16, depth=1, num_heads=4, window=8)
    save_filler(filler, tmp_path)
    again = load(tmp_path)
    assert again.id == codec.id  # files stay readable
    cut = codec.compress(picture, num_packets=8)[:-2]
    header, codes, known = again.read(cut)
    latent = again.latent(codes, known, 0)
    assert torch.isfinite(latent).all() and not torch.equal(latent, codec.latent(codes, known, 0))


@pytest.mark.parametrize("told, message", [
    ({"depth": "1000000000"}, "its sizes are"),
    ({"depth": "9999"}, "a network of far more than the 22 tensors"),
    ({"width": "4096"}, "a tensor of 4,096 x"),
    ({"window": "4096"}, "a tensor of 16,777,216 x 8 values"),
    ({"window": "3"}, r"'positions' has the sizes \[4, 8\], not \[9, 8\]"),
    ({"num_heads": "3"}, "3 attention heads do not divide 8 channels"),
    ({"num_heads": "0"}, "its sizes are"),
    ({"width": "-8"}, "its sizes are"),
    ({"width": "8.0"}, "its sizes are"),
    ({"width": "9" * 5_000}, "its sizes are"),
    ({"dropout": "1"}, "its sizes are"),
    (None, "its sizes are {}"),
])  # fmt: skip
def test_sizes_that_are_not_those_of_the_tensors(codec, tmp_path, told, message):
    filler = Filler(codec.tokenizer.quantizer.dim, width=8, depth=1, num_heads=4, window=2)
    save_filler(filler, tmp_path)
    assert load_filler(tmp_path, codec.tokenizer).window == 2
    sizes = {"width": "8", "depth": "1", "num_heads": "4", "window": "2"}
    save_file(filler.state_dict(), tmp_path / FILLER, None if told is None else sizes | told)
    with pytest.raises(ValueError, match=f"{FILLER} does not fit: .*{message}"):
        load_filler(tmp_path, codec.tokenizer)
