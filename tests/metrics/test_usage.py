import math

import pytest
import torch

from vistok.metrics import CodebookUsage, DistinctTuples
from vistok.metrics.usage import Part, ceiling, parts_of, split


def test_a_histogram_worked_by_hand():
    usage = CodebookUsage([4])
    usage.update(torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]).view(1, 1, 2, 4))
    values = usage.compute()
    assert values.keys() == {"usage", "usage_ceiling", "perplexity", "entropy_bits", "tokens"}
    assert values["usage"] == 3 / 4
    assert values["usage_ceiling"].item() == pytest.approx(1 - math.exp(-8 / 4), rel=1e-12)
    assert values["entropy_bits"].item() == pytest.approx(1.5, rel=1e-12)  # of (1/2, 1/4, 1/4)
    assert values["perplexity"].item() == pytest.approx(2**1.5, rel=1e-12)
    assert values["tokens"] == 8
    assert [counts.tolist() for counts in usage.counts] == [[4, 2, 2, 0]]


def test_uniform_use_is_full_perplexity_and_one_codeword_is_one():
    usage = CodebookUsage([64])
    usage.update(torch.arange(64).repeat(3).view(3, 1, 8, 8))
    assert usage.compute()["perplexity"].item() == pytest.approx(64, rel=1e-12)
    assert usage.compute()["usage"] == 1
    usage = CodebookUsage([64])
    usage.update(torch.full((2, 1, 1, 32), 5))
    assert usage.compute()["perplexity"] == 1
    assert usage.compute()["entropy_bits"] == 0
    assert usage.compute()["usage"] == 1 / 64


def test_even_choices_use_what_the_ceiling_says():
    torch.manual_seed(0)
    for tokens in (50, 500, 5000):
        used = torch.stack([torch.randint(1000, (tokens,)).bincount(minlength=1000) > 0 for _ in range(200)])
        assert ceiling(torch.tensor(tokens), 1000).item() == pytest.approx(used.double().mean().item(), rel=0.01)


def test_the_ceiling_of_few_tokens_keeps_its_digits():
    assert ceiling(torch.tensor(1), 2**40).item() == pytest.approx(2**-40, rel=1e-9)


def test_positions_that_are_not_kept_do_not_count():
    usage = CodebookUsage([4])
    usage.update(torch.tensor([0, 1, 1, 3]).view(1, 1, 2, 2), torch.tensor([True, True, False, False]).view(1, 2, 2))
    assert usage.counts[0].tolist() == [1, 1, 0, 0]
    assert usage.compute()["tokens"] == 2


def test_each_codebook_is_counted_in_its_own_size():
    usage = CodebookUsage([2, 5])
    codes = torch.stack([torch.tensor([[0, 0], [0, 1]]), torch.tensor([[4, 4], [3, 3]])])[None]
    usage.update(codes)
    values = usage.compute()
    names = ("usage", "usage_ceiling", "perplexity", "entropy_bits")
    assert values.keys() == {f"{name}_{i}" for name in names for i in (0, 1)} | {"tokens"}
    assert [counts.tolist() for counts in usage.counts] == [[3, 1], [0, 0, 0, 2, 2]]
    assert (values["usage_0"], values["usage_1"]) == (1, 2 / 5)
    assert values["usage_ceiling_1"].item() == pytest.approx(1 - math.exp(-4 / 5), rel=1e-12)
    assert values["perplexity_1"].item() == pytest.approx(2, rel=1e-12)
    assert values["tokens"] == 4


def test_updates_and_ranks_add_up(gathered):
    codes = torch.randint(16, (6, 2, 1, 9))  # 1-D tokens
    whole, first, second = (CodebookUsage([16, 16]) for _ in range(3))
    whole.update(codes)
    first.update(codes[:2])
    second.update(codes[2:3])
    second.update(codes[3:])
    for own in gathered([first, second]):
        assert torch.equal(own.hits, whole.hits)
        assert own.compute() == whole.compute()


def test_nothing_seen_is_zero():
    assert {name: value.item() for name, value in CodebookUsage([8]).compute().items()} == {
        "usage": 0,
        "usage_ceiling": 0,
        "perplexity": 0,
        "entropy_bits": 0,
        "tokens": 0,
    }


def test_counts_go_on_beyond_float32():
    usage = CodebookUsage([2])
    usage.update(torch.zeros(1, 1, 1, 1, dtype=torch.int64))
    usage.hits += 2**40
    usage.update(torch.zeros(1, 1, 1, 1, dtype=torch.int64))
    assert usage.counts[0].tolist() == [2**40 + 2, 2**40]


def test_codes_of_another_number_of_codebooks_are_refused():
    with pytest.raises(ValueError, match="codes of 1 codebooks, but there are 2"):
        CodebookUsage([4, 4]).update(torch.zeros(1, 1, 2, 2, dtype=torch.int64))


def test_distinct_tuples_by_hand():
    tuples = DistinctTuples(2)
    tuples.update(torch.tensor([[0, 0, 1], [3, 3, 2]])[None, :, None])  # (0, 3) twice, (1, 2)
    tuples.update(torch.tensor([[1, 1], [2, 3]])[None, :, None], torch.tensor([[[True, False]]]))  # (1, 2) again
    assert tuples.tuples().tolist() == [[0, 3], [1, 2]]
    tuples.update(torch.tensor([[1], [3]])[None, :, None])
    assert tuples.tuples().tolist() == [[0, 3], [1, 2], [1, 3]]


def test_memory_of_distinct_tuples_grows_with_their_number_alone():
    tuples = DistinctTuples(3)
    for _ in range(40):
        tuples.update(torch.randint(4, (16, 3, 16, 16)))
        assert len(tuples.known) + sum(map(len, tuples.pending)) <= 2**16 + 64
    assert len(tuples.tuples()) == 64


def test_bits_of_large_codebooks_are_counted_in_groups():
    assert parts_of([2**22]) == (Part(0, 0, 2**22, ""),)
    assert parts_of([2**36]) == (Part(0, 0, 2**18, "bits 0 to 17"), Part(0, 18, 2**18, "bits 18 to 35"))
    assert [part.size for part in parts_of([2**62])] == [2**15, 2**16, 2**15, 2**16]
    assert parts_of([8, 5 * 2**21]) == (
        Part(0, 0, 8, "codebook 0"),
        Part(1, 0, 2**12, "codebook 1 bits 0 to 11"),
        Part(1, 12, 5 * 2**9, "codebook 1 bits 12 to 23"),
    )


@pytest.mark.parametrize("size", [2**23, 5 * 2**21 - 3, 2**36, 2**62])
def test_groups_of_bits_make_up_the_code(size):
    parts = parts_of([size])
    codes = torch.tensor([0, 1, size // 3, size - 2, size - 1]).view(1, 1, 1, 5)
    values = split(codes, parts)
    assert all(values[:, i].max() < part.size for i, part in enumerate(parts))
    assert torch.equal(sum(values[:, i] << part.shift for i, part in enumerate(parts)), codes[:, 0])


def test_usage_of_a_large_codebook_by_hand():
    usage = CodebookUsage([2**36])
    codes = torch.tensor([3 + (7 << 18), 3 + (8 << 18), 4 + (7 << 18), 3 + (7 << 18)]).view(1, 1, 2, 2)
    usage.update(codes)
    values = usage.compute()
    assert (values["usage_0"], values["usage_1"], values["tokens"]) == (2 / 2**18, 2 / 2**18, 4)
    assert values["entropy_bits_1"].item() == pytest.approx(2 - 0.75 * math.log2(3))
    assert usage.counts[0][3:5].tolist() == [3, 1] and usage.counts[1][7:9].tolist() == [3, 1]
    tuples = DistinctTuples(2)
    tuples.update(split(codes, usage.parts))
    assert tuples.tuples().tolist() == [[3, 7], [3, 8], [4, 7]]
