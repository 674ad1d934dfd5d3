import hashlib

import torch

from vistok.evaluation.examples import Examples


def batches(n: int = 23):
    images = torch.randint(256, (n, 3, 4, 4), dtype=torch.uint8)
    copies = images.flip(0)
    distances = torch.arange(n).float().roll(5)
    distances[3] = distances[4]  # settled by their names
    return [f"{i:02d}" for i in range(n)], distances, images, copies


def names(examples: Examples) -> dict[str, list[str]]:
    return {kind: [own.name for own in chosen] for kind, chosen in examples.chosen.items()}


def test_which_are_chosen():
    given = batches()
    examples = Examples(count=3)
    for part in (slice(0, 7), slice(7, 23)):
        examples.update(*(side[part] for side in given))
    chosen = names(examples)
    distances = dict(zip(given[0], given[1].tolist(), strict=True))
    assert chosen["worst"] == sorted(distances, key=lambda name: (-distances[name], name))[:3]
    assert chosen["best"] == sorted(distances, key=lambda name: (distances[name], name))[:3]
    assert chosen["drawn"] == sorted(distances, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:3]
    for own in examples.chosen["worst"]:
        i = given[0].index(own.name)
        assert own.distance == distances[own.name]
        assert torch.equal(own.image, given[2][i]) and torch.equal(own.reconstruction, given[3][i])
        assert own.image.untyped_storage().nbytes() == 48  # not the batch's


def test_several_ranks_and_an_interruption_choose_the_same():
    given = batches()
    whole = Examples(count=4)
    whole.update(*given)
    parts = []
    for rank in (2, 0, 1):
        other = Examples(count=4)
        for i in range(rank, 23, 3):
            other.update(*(side[i : i + 1] for side in given))
            resumed = Examples(count=4)
            resumed.restore(*other.save())
            other = resumed
        parts.append(other)
    merged = Examples.merged(parts)
    assert names(merged) == names(whole)
    for kind, chosen in whole.chosen.items():
        for own, other in zip(chosen, merged.chosen[kind], strict=True):
            assert own.distance == other.distance
            assert torch.equal(own.image, other.image) and torch.equal(own.reconstruction, other.reconstruction)


def test_nothing_seen_can_be_gone_on_with():
    examples = Examples()
    examples.restore(*Examples().save())
    assert names(examples) == {"worst": [], "best": [], "drawn": []}
