"""Sequences give back their codes, and the probability of a sequence is that of its ids one after the other."""

from dataclasses import replace

import pytest
import torch

from vistok.evaluation.learnability.autoregressive import NextIdModel
from vistok.evaluation.learnability.id_sequences import PADDING, IdSpace
from vistok.tokens import Header, interleave


def batch_of(store):
    """Space, codes and ids of all images of a store."""
    space = IdSpace(store.header)
    codes, keep = (torch.stack([torch.from_numpy(store.view(i)[n]) for i in range(len(store))]) for n in (0, 1))
    return space, codes, space.sequences(codes, keep)


def check_inverse(space, codes, batch):
    """The ids at their slots are the codes, can stand there, and tell the next slot."""
    present = batch.ids != PADDING
    b, ids, slots = len(codes), batch.ids.clamp(min=0), batch.slots
    table = torch.zeros(b, space.number + 1, dtype=torch.int64)
    table.scatter_(1, slots.where(present, torch.full_like(slots, space.number)), ids)
    assert torch.equal(space.codes(table[:, :-1]), codes)
    assert space.allowed[slots % space.kinds, ids][present].all()
    following = torch.zeros(b, dtype=torch.int64)
    for i in range(ids.shape[1]):
        assert torch.equal(following[present[:, i]], slots[present[:, i], i])
        following = torch.where(present[:, i], space.following(following, ids[:, i]), following)
    assert (following == space.number).all()


@pytest.mark.parametrize("kind, length", [("vq", 64), ("fq", 128), ("dq", 40), ("rq", 192), ("ms", 85)])
def test_ids_with_their_slots_are_the_codes(stores, kind, length):
    space, codes, batch = batch_of(stores[kind])
    assert batch.ids.shape == (7, length) and (batch.ids >= 0).all()
    check_inverse(space, codes, batch)
    if kind != "dq":  # the ids that TokenDataset has
        assert torch.equal(batch.ids, torch.from_numpy(interleave(codes.numpy(), stores[kind].header.codebook_sizes)))


def test_a_dynamic_sequence_by_hand(stores):
    """A coarse region of code 5 and a fine one of 1, 2, 3, 4 on a grid of 2 x 4, with 32 codewords."""
    space = IdSpace(replace(stores["dq"].header, grid=(2, 4)))
    codes = torch.tensor([[[[5, 5, 1, 2], [5, 5, 3, 4]]]])
    keep = torch.tensor([[[True, False, True, True], [False, False, True, True]]])
    batch = space.sequences(codes, keep)
    assert batch.ids.tolist() == [[5, 33, 34, 35, 36]] and batch.slots.tolist() == [[0, 4, 5, 6, 7]]


def header(store, **changes) -> Header:
    return replace(store.header, **changes)


def test_three_granularities_of_two_codebooks(stores):
    """A region of each granularity on a grid of 4 x 12, beside an image of coarse regions only."""
    space = IdSpace(header(stores["vq"], grid=(4, 12), grains=3, codebook_sizes=(10, 7)))
    codes, keep = torch.zeros(2, 2, 4, 12, dtype=torch.int64), torch.zeros(2, 4, 12, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for image, region, g in [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 0), (1, 1, 0), (1, 2, 0)]:
        side, columns = 4 // 2**g, slice(4 * region, 4 * region + 4)
        cells = torch.randint(7, (2, 2**g, 2**g), generator=generator)
        codes[image, :, :, columns] = cells.repeat_interleave(side, 1).repeat_interleave(side, 2)
        keep[image, ::side, columns][:, ::side] = True
    batch = space.sequences(codes, keep)
    assert (batch.ids != PADDING).sum(1).tolist() == [2 * (1 + 4 + 16), 2 * 3]
    assert space.vocabulary == 3 * 17 and space.kinds == 1 + 1 + 7 + 31
    assert batch.ids[0, 0] == codes[0, 0, 0, 0] and batch.ids[0, 1] == 10 + codes[0, 1, 0, 0]
    assert batch.ids[0, 2] == 17 + codes[0, 0, 0, 4] and batch.ids[0, 11] == 34 + 10 + codes[0, 1, 0, 8]
    check_inverse(space, codes, batch)


def test_large_codes_are_groups_of_bits_and_one_dimension_is_a_grid(stores):
    space = IdSpace(header(stores["vq"], grid=(1, 5), codebook_sizes=(2**36, 3)))
    codes = torch.randint(2**36, (2, 2, 1, 5), generator=torch.Generator().manual_seed(0))
    codes[:, 1] %= 3
    batch = space.sequences(codes, torch.ones(2, 1, 5, dtype=torch.bool))
    assert batch.ids.shape == (2, 20) and space.vocabulary == 3 * 2**12 + 3
    assert batch.ids[0, :4].tolist() == [
        codes[0, 0, 0, 0] % 2**12,
        2**12 + codes[0, 0, 0, 0] // 2**12 % 2**12,
        2**13 + codes[0, 0, 0, 0] // 2**24,
        3 * 2**12 + codes[0, 1, 0, 0],
    ]
    check_inverse(space, codes, batch)


@pytest.mark.parametrize("kind", ["vq", "fq", "dq"])
def test_one_id_at_a_time_has_the_bits_of_the_sequence(stores, kind):
    space, _, batch = batch_of(stores[kind])
    torch.manual_seed(0)
    model = NextIdModel(space, 2, width=16, layers=2, heads=2).eval()
    labels = torch.from_numpy(stores[kind].labels.copy())
    with torch.no_grad():
        together = model.nats(batch, labels)
        before, cache, parts = model.start(labels), {}, []
        for i in range(batch.ids.shape[1]):
            ids = batch.ids[:, i : i + 1]
            logits = model(before, batch.slots[:, i : i + 1], cache)[:, 0]
            parts.append(-logits.log_softmax(-1).gather(1, ids)[:, 0])
            before = ids
    torch.testing.assert_close(torch.stack(parts, 1), together, rtol=1e-4, atol=1e-4)
    assert not torch.equal(model.nats(batch, 1 - labels), together)  # the class counts


@pytest.mark.parametrize("kind", ["vq", "fq", "dq"])
def test_samples_are_codes_of_their_codebooks(stores, kind):
    torch.manual_seed(0)
    model = NextIdModel(IdSpace(stores[kind].header), 2, width=16, layers=1, heads=2).eval()
    labels, settings = torch.tensor([0, 1, 1]), {"temperature": 0.9, "top_k": 3, "guidance": 1.5}
    codes = model.sample(labels, torch.Generator().manual_seed(0), **settings)
    sizes = stores[kind].header.codebook_sizes
    assert codes.shape == (3, len(sizes), 8, 8)
    for j, size in enumerate(sizes):
        assert codes[:, j].min() >= 0 and codes[:, j].max() < size
    assert torch.equal(codes, model.sample(labels, torch.Generator().manual_seed(0), **settings))
    if kind == "dq":  # a coarse region has one code
        regions = codes.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
        assert (regions == regions[..., :1]).all(-1).any()
