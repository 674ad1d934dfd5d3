"""The nearest-code search against distances in float64."""

import math

import pytest
import torch

from vistok.kernels import nearest, nearest_code, nearest_cpu


def clusters(n, k, d):
    """Tight clusters far apart: scores in float32 tell few of their codewords from each other."""
    centres = torch.randn(20, d) * 10
    return (centres[torch.randint(20, (size,))] + 1e-3 * torch.randn(size, d) for size in (n, k))


def copies(n, d):
    """Codewords after a restart with few vectors: twenty near each vector."""
    z = torch.randn(n, d)
    return z, z.repeat(20, 1) + torch.rand(20 * n, d) * (0.01 * d**-0.5)


def some_moved(n, k, d):
    """Initial codewords near 0, of which every twentieth has moved onto a vector: the others are nearest to small z."""
    z, codebook = torch.randn(n, d), torch.empty(k, d).uniform_(-1 / k, 1 / k)
    codebook[::20] = z.repeat(k, 1)[: len(codebook[::20])]
    return torch.cat([z, z * 1e-3]), codebook


CASES = {
    "one dimension": lambda: (torch.randn(300, 1), torch.randn(2, 1)),
    "small": lambda: (torch.randn(257, 8), torch.randn(1000, 8)),
    "blocks of all sizes": lambda: (torch.randn(128, 64), torch.randn(4099, 64)),
    "many vectors": lambda: (torch.randn(2500, 4), torch.randn(515, 4)),
    "one codeword": lambda: (torch.randn(5, 8), torch.randn(1, 8)),
    "one vector": lambda: (torch.randn(1, 8), torch.randn(3000, 8)),
    "VQGAN's first codebook": lambda: (torch.randn(200, 64), torch.empty(4096, 64).uniform_(-1 / 4096, 1 / 4096)),
    "some codewords moved": lambda: some_moved(100, 4096, 256),
    "some codewords moved, small": lambda: some_moved(60, 1024, 256),
    "some codewords zero": lambda: (torch.randn(99, 8), torch.randn(4096, 8) * (torch.arange(4096) % 9 > 3)[:, None]),
    "far from the origin": lambda: (torch.randn(300, 8) + 1000, torch.randn(2560, 8) + 1000),
    "clusters": lambda: clusters(100, 3000, 32),
    "an outlier": lambda: (torch.randn(200, 8), torch.cat([torch.randn(3000, 8), torch.full((1, 8), 1e6)])),
    "codewords themselves": lambda: 2 * (torch.randn(2100, 16),),
    "copies with little noise": lambda: copies(150, 16),
    "repeated codewords": lambda: (torch.randn(300, 8), torch.randn(40, 8).repeat(60, 1)),
    "equal codewords": lambda: (torch.randn(50, 8), torch.randn(1, 8).expand(2100, 8)),
    "a codebook of zeros": lambda: (torch.randn(50, 8), torch.zeros(2100, 8)),
    "huge": lambda: (torch.randn(100, 8) * 1e30, torch.randn(2100, 8) * 1e30),
    "the largest floats": lambda: (torch.randn(100, 8).sign() * 3e38, torch.rand(2100, 8) * 3e38),
    "tiny": lambda: (torch.randn(100, 8) * 1e-30, torch.randn(2100, 8) * 1e-30),
    "float64": lambda: (torch.randn(100, 8).double() + 1e8, torch.randn(2100, 8).double() + 1e8),
    "float64 beyond float32": lambda: (torch.randn(100, 8).double() * 1e130, torch.randn(2100, 8).double() * 1e130),
    "float16": lambda: (torch.randn(100, 8).half(), torch.randn(2100, 8).half()),
    "bfloat16": lambda: (torch.randn(100, 8).bfloat16(), torch.randn(2100, 8).bfloat16()),
    "unlike dtypes": lambda: (torch.randn(100, 8).bfloat16(), torch.randn(2100, 8)),
    "integers": lambda: (torch.randint(-3, 4, (300, 4)), torch.randint(-3, 4, (2100, 4))),
    "bytes": lambda: (torch.randint(0, 256, (300, 4)).byte(), torch.randint(0, 256, (2100, 4)).byte()),
    "columns": lambda: (torch.randn(8, 100).T, torch.randn(8, 2100).T),
}


@pytest.mark.parametrize("case", CASES)
def test_exact(case):
    """The first of the least distances, as by brute force."""
    torch.manual_seed(0)
    z, codebook = CASES[case]()
    distance = (z.double()[:, None] - codebook.double()).square().sum(2) if len(z) < 200 else None
    codes = nearest_code(z, codebook)
    assert torch.equal(codes, nearest_cpu.reference(z, codebook))
    if distance is not None:
        chosen = distance.gather(1, codes[:, None])[:, 0]
        assert (chosen <= distance.amin(1) * (1 + 1e-12)).all()


@pytest.mark.parametrize("k", [1024, 4096])
def test_short_codewords_beside_long_ones_are_told_apart_by_scores(k, monkeypatch):
    """The bound of the long ones is larger than the differences between scores of the short ones."""
    torch.manual_seed(0)
    (z, codebook), compared = some_moved(100, k, 256), []
    monkeypatch.setattr(nearest_cpu.Choice, "compare", lambda self, rows, near, start: compared.append(near.sum()))
    nearest_code(z, codebook)
    assert sum(map(int, compared)) < 4 * len(z)  # about k / 2 times len(z) without bounds for each codeword


@pytest.mark.parametrize("block, small, rows, at_once, panel", [
    (16, 8, 32, 64, 512),
    (512, 8, 7, 2048, 1),
    (100, 8, 512, 10, 2**19),
    (512, 2048, 3, 2048, 2**19),
])  # fmt: skip
def test_results_do_not_depend_on_blocks(monkeypatch, block, small, rows, at_once, panel):
    torch.manual_seed(0)
    z, codebook = torch.randn(150, 8), torch.randn(1100, 8)
    codebook[600:] = codebook[:500]  # equal codewords in other blocks
    whole = nearest_code(z, codebook)
    sizes = {"BLOCK": block, "SMALL": small, "ROWS": rows, "ROWS_AT_ONCE": at_once, "PANEL": panel}
    for name, value in sizes.items():
        monkeypatch.setattr(nearest_cpu, name, value)
    assert torch.equal(nearest_code(z, codebook), whole) and whole.max() < 600


def test_of_ties_the_first():
    codebook = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert nearest_code(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), codebook).tolist() == [1, 0]


def test_what_is_not_finite():
    z, codebook = torch.randn(4, 3), torch.randn(600, 3)
    expected = nearest_code(z, codebook)
    z[1, 2], z[2, 0] = math.nan, math.inf
    codes = nearest_code(z, codebook)
    assert codes.tolist() == [expected[0], 0, 0, expected[3]]
    codebook[expected[0]] = -math.inf  # never the nearest
    assert expected[0] not in nearest_code(z, codebook)
    codebook[550:570] = math.nan
    assert nearest_code(z, codebook).tolist() == [550, 0, 0, 550]


def test_no_vectors():
    codes = nearest_code(torch.empty(0, 8), torch.randn(5, 8))
    assert codes.shape == (0,) and codes.dtype == torch.int64


@pytest.mark.parametrize("z, codebook, message", [
    ((3, 4), (5, 8), r"z \(3, 4\) and codebook \(5, 8\) must be \(n, d\) and \(k, d\)"),
    ((4,), (5, 4), r"z \(4,\)"),
    ((3, 4), (0, 4), r"codebook \(0, 4\) is empty"),
])  # fmt: skip
def test_wrong_shapes(z, codebook, message):
    with pytest.raises(ValueError, match=message):
        nearest_code(torch.empty(z), torch.empty(codebook))


def test_autocast_and_gradients_change_nothing():
    torch.manual_seed(0)
    z, codebook = torch.randn(200, 8, requires_grad=True), torch.randn(2100, 8, requires_grad=True)
    expected = nearest_cpu.reference(z, codebook)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_code(z, codebook), expected)
    with torch.inference_mode():
        assert torch.equal(nearest_code(z, codebook), expected)
    assert not nearest_code(z, codebook).requires_grad


def test_the_plain_search_agrees():
    torch.manual_seed(0)
    z, codebook = torch.randn(1000, 8), torch.randn(50, 8)
    whole = nearest.plain_search(z, codebook, parts=False)
    assert torch.equal(whole, nearest_code(z, codebook))
    assert torch.equal(whole, nearest.plain_search(z, codebook))


def test_compilers_see_one_operation():
    seen = []

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compiler.reset()
    z, codebook = torch.randn(20, 4, requires_grad=True), torch.randn(30, 4, requires_grad=True)
    compiled = torch.compile(nearest_code, fullgraph=True, backend=backend)
    assert torch.equal(compiled(z, codebook), nearest_code(z, codebook))
    assert [name for name in seen if "detach" not in name and "grad" not in name] == ["vistok.nearest_code.default"]


def test_shapes_alone():
    torch.library.opcheck(nearest.search, (torch.randn(20, 4), torch.randn(30, 4)))
    assert nearest_code(torch.empty(20, 4, device="meta"), torch.empty(30, 4, device="meta")).shape == (20,)


@pytest.mark.parametrize("n, k, d", [(2048, 16384, 8), (256, 262144, 16), (64, 65536, 256)])
def test_memory(allocated, n, k, d):
    """16 MiB, n × 512 floats, and what holds a number for each codeword; a matrix of scores has 64 MiB to 256 MiB."""
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    peak = allocated(lambda: nearest_code(z, codebook))
    assert 2**18 < peak < 16 * 2**20 + n * 512 * 4
