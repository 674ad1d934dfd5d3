"""Two codebooks by visibility: the authors' values, the ranges of codes, and the positions by hand."""

from typing import Any

import pytest
import torch

from vistok.quantizers import FSQ, Context, MaskedQuantizer, ResidualQuantizer, SimVQ, VectorQuantizer
from vistok.quantizers.masked import wholly_known

KNOWN = 28  # codewords of wholly known positions, of 40


def filled(table, **arguments) -> Any:
    known, hidden = (VectorQuantizer(len(own), own.shape[1], **arguments) for own in table.split([KNOWN, 12]))
    for head, own in ((known, table[:KNOWN]), (hidden, table[KNOWN:])):
        head.codewords.data.copy_(own)
    return MaskedQuantizer(known, hidden).train()


def both(head, name):
    return torch.cat([getattr(head.known, name), getattr(head.hidden, name)])


@pytest.mark.parametrize("group, cosine", [("ema", False), ("cosine", True)])
def test_moving_averages_against_put(golden, close, group, cosine):
    values = golden("masked", group)
    head = filled(values["before.embedding"], ema_decay=0.99, cosine=cosine)
    for part, rows in ((head.known, slice(None, KNOWN)), (head.hidden, slice(KNOWN, None))):
        part.ema_counts.copy_(values["before.cluster_size"][rows])
        part.ema_sums.copy_(values["before.embedding_avg"][rows])
    z = values["z"].requires_grad_()
    quantized = head(z, Context(mask=values["token_type"] == 1))
    assert torch.equal(quantized.codes[:, 0], values["codes"])
    close(quantized.latent, values["zq"])
    close(quantized.losses["commitment"], values["loss.total"][0])
    (quantized.losses["commitment"] + (values["up.zq"] * quantized.latent).sum()).backward()
    close(z.grad, values["grad.z"])
    assert head.update(quantized.stats) == {}
    for ours, theirs in (("codewords", "embedding"), ("ema_counts", "cluster_size"), ("ema_sums", "embedding_avg")):
        torch.testing.assert_close(both(head, ours), values[f"after.{theirs}"], rtol=2e-5, atol=1e-6)


def test_gradients_against_put(golden, close):
    """The weight 0.25 is on the codebook's term in the authors' code."""
    values = golden("masked", "param")
    head = filled(values["before.embedding.weight"])
    z = values["z"].requires_grad_()
    quantized = head(z, Context(mask=values["token_type"] == 1))
    assert torch.equal(quantized.codes[:, 0], values["codes"])
    total = quantized.total({"codebook": 0.25})
    close(total, values["loss.total"][0])
    (total + (values["up.zq"] * quantized.latent).sum()).backward()
    close(z.grad, values["grad.z"])
    grads: Any = [part.codewords.grad for part in (head.known, head.hidden)]
    close(torch.cat(grads), values["grad.embedding.weight"])


def test_positions_by_hand():
    mask = torch.ones(1, 1, 4, 6, dtype=torch.bool)
    mask[0, 0, 1, 1] = False  # one pixel of a patch
    mask[0, 0, 2:, 4:] = False  # a whole patch
    assert wholly_known(mask, 2, 3).tolist() == [[[False, True, True], [True, True, False]]]
    with pytest.raises(ValueError, match="mask of 4x6 is not tiled by a latent of 3x3"):
        wholly_known(mask, 3, 3)


def test_ranges_of_codes_and_what_each_codebook_learns_from():
    """A vector that is nearest to a codeword of the other codebook gets one of its own."""
    known, hidden = (VectorQuantizer(size, 1, ema_decay=0.5) for size in (2, 3))
    quantized: Any
    known.codewords.copy_(torch.tensor([[0.0], [10.0]]))
    hidden.codewords.copy_(torch.tensor([[1.0], [2.0], [11.0]]))
    head = MaskedQuantizer(known, hidden).train()
    assert head.codebook_sizes == (5,) and head.num_known == 2
    z = torch.tensor([[[[1.0, 9.0], [1.0, 9.0]]]])
    context = Context(mask=torch.tensor([[[[True, True], [False, False]]]]))
    quantized = head(z, context)
    assert quantized.codes.flatten().tolist() == [0, 1, 2, 4]
    assert quantized.latent.flatten().tolist() == [0, 10, 1, 11]
    assert float(quantized.losses["commitment"]) == (1 + 1 + 0 + 4) / 4
    assert torch.equal(head.lookup(quantized.codes), quantized.latent)
    assert torch.equal(head.encode(z, context).codes, quantized.codes)
    assert {name: own.tolist() for name, own in quantized.stats.items() if name.endswith("counts")} == {
        "known.counts": [1, 1], "hidden.counts": [1, 0, 1],
    }  # fmt: skip
    assert quantized.stats["hidden.sums"].tolist() == [[1], [0], [9]]
    assert head.encode(z).codes.flatten().tolist() == [0, 1, 0, 1]  # all known without a mask
    with pytest.raises(ValueError, match="codes hold 5, but codebook 0 has the codes 0 to 4"):
        head.lookup(torch.tensor([[[[5]]]]))


def test_weights_of_the_context_count_too():
    head: Any = MaskedQuantizer(VectorQuantizer(2, 1), VectorQuantizer(2, 1))
    for part in (head.known, head.hidden):
        part.codewords.data.zero_()
    mask = torch.tensor([[[[True, False]]]])
    losses = head(torch.tensor([[[[2.0, 4.0]]]]), Context(mask=mask, weight=torch.tensor([[[3.0, 0.5]]]))).losses
    assert float(losses["commitment"]) == (3 * 4 + 0.5 * 16) / 2


def test_revived_rows_belong_to_their_codebook():
    head: Any = MaskedQuantizer(VectorQuantizer(2, 1), VectorQuantizer(3, 1))
    rows = torch.tensor([False, True, True, False, False])
    moved = head.revive(0, rows, torch.arange(5.0)[:, None])
    assert {name: own.tolist() for name, own in moved.items()} == {
        "known.codewords": [False, True], "hidden.codewords": [True, False, False],
    }  # fmt: skip
    assert (head.known.codewords[1].item(), head.hidden.codewords[0].item()) == (1, 2)


def test_refusals():
    with pytest.raises(ValueError, match="a ResidualQuantizer has several codes for a position"):
        MaskedQuantizer(ResidualQuantizer([VectorQuantizer(4, 2)], 2), VectorQuantizer(4, 2))
    with pytest.raises(ValueError, match="known and hidden positions differ in dim: 2 and 3"):
        MaskedQuantizer(VectorQuantizer(4, 2), VectorQuantizer(4, 3))
    with pytest.raises(ValueError, match="differ in loss_names"):
        MaskedQuantizer(FSQ([4, 4]), SimVQ(4, 2))
