import hashlib

import pytest
import torch

from vistok.evaluation import completion, examples
from vistok.evaluation.examples import Examples
from vistok.images.ranges import to_float, to_uint8
from vistok.quantizers import Codes


def batches(n: int = 23):
    """Names, values, images, reconstructions, codes; two values of ``l1`` are equal, settled by their names."""
    images = torch.randint(256, (n, 3, 4, 4), dtype=torch.uint8)
    l1 = torch.arange(n).float().roll(5)
    l1[3] = l1[4]
    values = {"l1": l1, "psnr": (7.0 * torch.arange(n)) % 23, "psnr_bicubic": torch.zeros(n)}
    codes = torch.arange(n * 4).view(n, 1, 2, 2)
    return [f"{i:02d}" for i in range(n)], values, images, images.flip(0), codes


def add(own: Examples, given, part: slice) -> None:
    names, values, images, copies, codes = given
    values = {name: of_image[part] for name, of_image in values.items()}
    own.update(names[part], values, images[part], copies[part], Codes(codes[part], codes[part, 0] % 2 == 0))


def names(own: Examples) -> dict[str, list[str]]:
    return {reason: [name for _, name in ranked] for reason, ranked in own.ranked.items()}


def by_hash(given) -> list[str]:
    return sorted(given, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def test_which_are_chosen():
    given = batches()
    own = Examples(count=12)  # three for each end of two distances
    for part in (slice(0, 7), slice(7, 23)):
        add(own, given, part)
    chosen = names(own)
    assert set(chosen) == {"drawn", "worst l1", "best l1", "worst psnr", "best psnr"}  # a baseline has no worst
    l1, psnr = (dict(zip(given[0], given[1][name].tolist(), strict=True)) for name in ("l1", "psnr"))
    assert chosen["worst l1"] == sorted(l1, key=lambda name: (-l1[name], name))[:3]
    assert chosen["best l1"] == sorted(l1, key=lambda name: (l1[name], name))[:3]
    assert chosen["worst psnr"] == sorted(psnr, key=lambda name: (psnr[name], name))[:3]  # more is better
    assert chosen["best psnr"] == sorted(psnr, key=lambda name: (-psnr[name], name))[:3]
    assert chosen["drawn"] == by_hash(given[0])[:12]
    assert set(own.kept) == {name for group in chosen.values() for name in group}
    for name, example in own.kept.items():
        i = given[0].index(name)
        assert torch.equal(example.image, given[2][i]) and torch.equal(example.reconstruction, given[3][i])
        assert torch.equal(example.codes, given[4][i]) and torch.equal(example.keep, given[4][i, 0] % 2 == 0)
        assert example.image.untyped_storage().nbytes() == 48  # not the batch's


def test_memory_does_not_grow_with_the_images():
    kept = []
    for n in (100, 400):
        own, given = Examples(count=8), batches(n)
        for start in range(0, n, 10):
            add(own, given, slice(start, start + 10))
            kept.append(len(own.kept))
    assert max(kept) <= 8 + 4 * 2


def test_several_ranks_and_an_interruption_choose_the_same():
    given = batches()
    whole = Examples(count=9)
    add(whole, given, slice(0, 23))
    parts = []
    for rank in (2, 0, 1):
        other = Examples(count=9)
        for i in range(rank, 23, 3):
            add(other, given, slice(i, i + 1))
            resumed = Examples(count=9)
            resumed.restore(*other.save())
            other = resumed
        parts.append(other)
    merged = Examples.merged([Examples(count=9), *parts])  # one rank had no image
    assert names(merged) == names(whole) and set(merged.kept) == set(whole.kept)
    for name, own in whole.kept.items():
        other = merged.kept[name]
        assert all(torch.equal(*sides) for sides in zip(own[:4], other[:4], strict=True)) and own.part is other.part


def test_nothing_seen_can_be_gone_on_with():
    own = Examples()
    own.restore(*Examples().save())
    assert names(own) == {"drawn": []} and own.kept == {}


def test_a_report_shows_drawn_images_and_extremes_of_all_tokenizers_in_turn():
    one, other = Examples(count=6), Examples(count=6)
    given = batches(40)
    add(one, given, slice(0, 40))
    swapped = (given[0], {"psnr": given[1]["l1"], "l1": given[1]["psnr"]}, *given[2:])
    add(other, swapped, slice(0, 40))
    selected, drawn = examples.selected_names([one, other])
    assert len(selected) == len(set(selected)) == 6
    first = by_hash(given[0])
    assert selected[:drawn] == first[:drawn] and drawn >= 3
    worst = [names(own)["worst l1"][0] for own in (one, other)] + [names(own)["best l1"][0] for own in (one, other)]
    for name in [name for name in dict.fromkeys(worst) if name not in first[:3]][:3]:
        assert name in selected
    everything = Examples(count=50)
    add(everything, given, slice(0, 40))
    assert examples.selected_names([everything]) == (first, 40)
    assert "worst l1" in examples.reasons(names(one)["worst l1"][0], one)


def test_every_tokenizer_reconstructs_what_another_selected():
    given = batches(40)
    one, other = Examples(count=6), Examples(count=6)
    add(one, given, slice(0, 40))
    free = next(name for name in reversed(given[0]) if name not in one.kept)
    add(other, (given[0], {"l1": torch.tensor([float(name == free) for name in given[0]])}, *given[2:]), slice(0, 40))
    before = dict(one.kept)
    selected, _ = examples.selected_names([one, other])
    missing = [len(set(selected) - set(own.kept)) for own in (one, other)]
    assert min(missing) > 0
    sizes = []

    def darker(names, images):
        sizes.append(len(names))
        assert images.shape == (len(names), 3, 4, 4)
        return to_float(images) * 0.5 - 0.5, Codes(torch.full((len(images), 1, 2, 2), 7))

    sizes = []
    completion.complete([one, other], [darker, darker], 2)
    assert list(one.kept) == list(other.kept) == selected and sum(sizes) == sum(missing) and max(sizes) <= 2
    for name, example in one.kept.items():
        image = given[2][given[0].index(name)]
        assert torch.equal(example.image, image)
        if name in before:
            assert torch.equal(example.reconstruction, before[name].reconstruction)
        else:
            assert torch.equal(example.reconstruction, to_uint8(to_float(image) * 0.5 - 0.5))
            assert example.codes.tolist() == [[[7, 7], [7, 7]]] and example.keep is None


@pytest.mark.parametrize("count", [1, 2])
def test_few_images(count):
    own = Examples(count)
    add(own, batches(), slice(0, 23))
    selected, drawn = examples.selected_names([own])
    assert len(selected) == count and drawn >= 1


def test_a_large_image_is_kept_in_part():
    image = torch.zeros(1, 3, 8, 1500, dtype=torch.uint8)
    copy = image.clone()
    copy[:, :, 3, 1480] = 200
    own = Examples(2)
    own.update(["wide"], {"l1": torch.ones(1)}, image, copy, Codes(torch.zeros(1, 1, 2, 2, dtype=torch.int64)))
    example = own.kept["wide"]
    assert example.part and example.codes is None and example.image.shape == (3, 8, 1024)
    assert example.reconstruction[0, 3].argmax() == 1480 - (1500 - 1024)
    other = Examples(2)
    other.restore(*own.save())
    assert other.kept["wide"].part and torch.equal(other.kept["wide"].image, example.image)
    lacking = Examples(2)
    completion.complete([own, lacking], [lambda *given: pytest.fail("again")] * 2, 2)
    assert lacking.kept == {}


def test_images_at_another_size_than_the_input_are_not_reconstructed_again():
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    own, lacking = Examples(2), Examples(2)
    own.update(["a"], {"l1": torch.ones(1)}, images, images)
    completion.complete([own, lacking], [None, None], 2)
    assert list(own.kept) == ["a"] and lacking.kept == {}


def test_an_image_without_a_value_is_neither_best_nor_worst():
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    own = Examples(8)
    own.update(["a", "b", "c"], {"l1": torch.tensor([0.5, torch.nan, 0.2])}, images, images)
    assert names(own)["worst l1"] == ["a", "c"] and names(own)["best l1"] == ["c", "a"] and "b" in own.kept
