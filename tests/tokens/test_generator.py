"""``benchmarks/generator.py``: sequences give back their codes, and samples are drawn from what is scored."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "generator.py"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generator", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch_of(store, generator):
    """Places, codes and ids of all images of a store."""
    places = generator.Places(store.header)
    codes, keep = (torch.stack([torch.from_numpy(store.view(i)[n]) for i in range(len(store))]) for n in (0, 1))
    return places, codes, places.sequences(codes, keep)


@pytest.mark.parametrize("kind, length", [("vq", 64), ("fq", 128), ("dq", 40)])
def test_ids_with_their_places_are_the_codes(stores, generator, kind, length):
    places, codes, batch = batch_of(stores[kind], generator)
    assert batch.ids.shape == (7, length) and (batch.ids >= 0).all()
    table = torch.zeros(7, places.number, dtype=torch.int64).scatter_(1, batch.slots, batch.ids)
    assert torch.equal(places.codes(table), codes)
    assert (places.allowed[batch.slots, batch.ids] == 0).all()
    slots = torch.zeros(7, dtype=torch.int64)
    for i in range(length):  # the ids themselves say where the next one goes
        assert torch.equal(slots, batch.slots[:, i])
        slots = places.following(slots, batch.ids[:, i])
    assert (slots == places.number).all()


def test_a_dynamic_sequence_by_hand(stores, generator):
    """A coarse region of code 5 and a fine one of 1, 2, 3, 4 on a grid of 2 x 4, with 32 codewords."""
    from dataclasses import replace

    places = generator.Places(replace(stores["dq"].header, grid=(2, 4)))
    codes = torch.tensor([[[[5, 5, 1, 2], [5, 5, 3, 4]]]])
    keep = torch.tensor([[[True, False, True, True], [False, False, True, True]]])
    batch = places.sequences(codes, keep)
    assert batch.ids.tolist() == [[5, 33, 34, 35, 36]] and batch.slots.tolist() == [[0, 4, 5, 6, 7]]


@pytest.mark.parametrize("kind", ["vq", "fq", "dq"])
def test_token_by_token_it_has_the_bits_of_the_whole_sequence(stores, generator, kind):
    places, _, batch = batch_of(stores[kind], generator)
    torch.manual_seed(0)
    model = generator.Generator(places, 2, width=16, layers=2, heads=2).eval()
    labels = torch.from_numpy(stores[kind].labels)
    with torch.no_grad():
        whole = model.nats(batch, labels)
        before, cache, parts = model.start(labels), generator.DynamicCache(), []
        for i in range(batch.ids.shape[1]):
            ids = batch.ids[:, i : i + 1]
            logits = model(before, batch.slots[:, i : i + 1], cache)[:, 0]
            parts.append(-logits.log_softmax(-1).gather(1, ids)[:, 0])
            before = ids
    torch.testing.assert_close(torch.stack(parts, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["vq", "fq", "dq"])
def test_samples_are_codes_of_their_codebooks(stores, generator, kind):
    places = generator.Places(stores[kind].header)
    torch.manual_seed(0)
    model = generator.Generator(places, 2, width=16, layers=1, heads=2).eval()
    labels = torch.tensor([0, 1, 1])
    codes = model.sample(labels, 0.9, 3, 1.5, torch.Generator().manual_seed(0))
    sizes = stores[kind].header.codebook_sizes
    assert codes.shape == (3, len(sizes), 8, 8)
    for j, size in enumerate(sizes):
        assert codes[:, j].min() >= 0 and codes[:, j].max() < size
    again = model.sample(labels, 0.9, 3, 1.5, torch.Generator().manual_seed(0))
    assert torch.equal(codes, again)
