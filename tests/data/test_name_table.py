"""A table of names gives what was written, in bounded memory, and refuses what is damaged."""

import pickle
import random

import pytest

from vistok.data.index_sequences import IndicesWithout, drawn
from vistok.data.name_sorting import sorted_names
from vistok.data.name_table import BLOCK, HEADER, NameTable

ODD = ["", "a", "caf\udce9.png", "né/ü.png", "日本/😀.png", "new\nline.png", "\ue000", "\udcff", "z" * 5000]


def names_of(count):
    return [f"class {i % 7}/{i * 7919 % 1_000_003:07d}.JPEG" for i in range(count)]


@pytest.mark.parametrize("names", [[], ["a.png"], ODD, names_of(BLOCK), names_of(BLOCK + 1), names_of(70_000) + ODD])
def test_a_table_is_the_sequence_that_was_written(tmp_path, names):
    table = NameTable.write(tmp_path / "names", iter(names))
    assert list(table) == names and len(table) == len(names) and bool(table) == bool(names)
    for part in (slice(None), slice(-5, None), slice(60, 70), slice(3, 1), slice(None, None, -9), slice(2, None, 31)):
        assert table[part] == names[part]
    places = random.Random(0).sample(range(-len(names), len(names)), min(200, len(names)))
    assert [table[i] for i in places] == [names[i] for i in places]
    for outside in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            table[outside]
    copy = pickle.loads(pickle.dumps(table))
    assert list(copy) == names and copy.digest == table.digest


def test_the_digest_is_of_names_and_order(tmp_path):
    lists = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab", "c", ""], []]
    digests = [NameTable.write(tmp_path / str(i), names).digest for i, names in enumerate(lists)]
    assert len(set(digests)) == len(lists) and NameTable.write(tmp_path / "again", lists[0]).digest == digests[0]
    table = NameTable.write(tmp_path / "0", lists[0])
    stale = pickle.dumps(table)
    NameTable.write(tmp_path / "other", lists[1]).path.replace(tmp_path / "0")
    assert list(table) == lists[0]  # a map outlives its file
    with pytest.raises(ValueError, match="has other names than when this process was started"):
        pickle.loads(stale)


def test_flipped_bits_and_truncations_are_noticed(tmp_path):
    names = [f"{i}.png" for i in range(BLOCK + 3)]
    good = NameTable.write(tmp_path / "good", names).path.read_bytes()
    bad = tmp_path / "bad"
    for at in [*range(HEADER.size), *range(HEADER.size, len(good), 11)]:
        bad.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        with pytest.raises(ValueError, match="bad .*(damaged|version)"):
            list(NameTable.open(bad))
    for size in (0, 1, HEADER.size - 1, HEADER.size, len(good) // 2, len(good) - 1):
        bad.write_bytes(good[:size])
        with pytest.raises(ValueError, match="bad"):
            NameTable.open(bad)
    bad.write_bytes(good + b"\0")
    with pytest.raises(ValueError, match="incomplete or damaged"):
        NameTable.open(bad)
    with pytest.raises(ValueError, match="nowhere cannot be read as a table of names"):
        NameTable.open(tmp_path / "nowhere")


def test_a_damaged_block_does_not_hide_the_others(tmp_path):
    names = names_of(3 * BLOCK)
    content = bytearray(NameTable.write(tmp_path / "names", names).path.read_bytes())
    content[content.index(names[BLOCK + 5].encode())] ^= 1
    (tmp_path / "names").write_bytes(content)
    table = NameTable.open(tmp_path / "names")
    assert table[BLOCK - 1] == names[BLOCK - 1] and table[2 * BLOCK] == names[2 * BLOCK]
    with pytest.raises(ValueError, match=f"names {BLOCK} to {2 * BLOCK - 1} do not have their checksum"):
        table[BLOCK]


@pytest.mark.parametrize("in_memory", [1, 7, 100, 10_000])
def test_sorting_on_disk_is_sorting(tmp_path, in_memory):
    names = names_of(300) + ODD + ["a", "a"]
    random.Random(1).shuffle(names)
    blocks = [names[i : i + 13] for i in range(0, len(names), 13)]
    found = sorted_names(blocks, tmp_path, in_memory)
    assert list(NameTable.write(tmp_path / "names", found)) == sorted(names)
    assert [path.name for path in tmp_path.iterdir()] == ["names"]


@pytest.mark.parametrize("without", [[], [0], [9], [3, 0, 4], [9, 8, 7], range(10)])
def test_indices_without_some(without):
    expected = [i for i in range(10) if i not in without]
    found = IndicesWithout(10, without)
    assert list(found) == expected == [found[i] for i in range(len(found))] == found[:]
    assert found[::-2] == expected[::-2] and len(found) == len(expected)
    if expected:
        assert found[-1] == expected[-1]
    with pytest.raises(IndexError):
        found[len(expected)]


def test_held_out_images_stay_those_of_earlier_versions():
    """Values of ``np.random.default_rng(seed).permutation(length)[:count]``."""
    assert drawn(10, 3, 0) == [2, 4, 6]
    assert drawn(100_000, 4, 7) == [45070, 45453, 71435, 99538]
