"""Names of stored images and those of a set."""

import pytest

from vistok.evaluation.matching import in_sorted_order, matched


@pytest.mark.parametrize("names, stored", [
    (["a.jpg", "b.x.png"], ["b.x.png", "a.png"]),
    (["more/a.JPG", "b.png"], ["b.webp", "more/a.png"]),
    (["val/a.jpg", "val/b.png"], ["b.png", "a.png"]),  # of a folder with train and val
    (["a.jpg", "b.png"], ["out/2/b.png", "out/2/a.png"]),
    (["1.tar:x/a.jpg", "2.tar:x/b.jpg"], ["x/b.png", "x/a.png"]),
    (["1.tar:x/a.jpg", "2.tar:x/b.jpg"], ["b", "a"]),  # as arrays are named
    (["coffee 0,16", "coffee 0,0"], ["coffee 0,0.png", "coffee 0,16.png"]),
])  # fmt: skip
def test_what_is_the_same(names, stored):
    assert matched(names, stored, "reconstructions=x") == {names[0]: 1, names[1]: 0}


def test_folders_count_where_names_repeat():
    names = ["dog/1.jpg", "cat/1.jpg"]
    assert matched(names, ["cat/1.png", "dog/1.png"], "x") == {"dog/1.jpg": 1, "cat/1.jpg": 0}


def test_the_missing_and_the_superfluous_are_named():
    names = [f"{i}.png" for i in range(9)]
    with pytest.raises(ValueError) as error:
        matched(names, ["0.jpg", "1.jpg", "x.jpg"], "reconstructions=DIR")
    assert str(error.value) == (
        "reconstructions=DIR does not match the images; "
        "7 of 9 images have no reconstruction: 2.png, 3.png, 4.png, 5.png, 6.png, ...; "
        "1 reconstructions belong to no image: x.jpg"
    )


def test_equal_names():
    with pytest.raises(ValueError, match=r"^x: names that differ only in folders or extensions: a\.jpg, a\.png$"):
        matched(["a.jpg", "b.jpg"], ["a.jpg", "a.png", "b.jpg"], "x")


def test_an_order_without_names():
    assert in_sorted_order(["b", "a", "c"], 3, "x") == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(ValueError, match="^x has 4 images without names, but there are 3 to compare with$"):
        in_sorted_order(["b", "a", "c"], 4, "x")
