"""Metrics from features of single images: after faults, for several tokenizers, on several processes."""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vistok import Tokenizer
from vistok.data import folder
from vistok.evaluation import (
    Protocol,
    ScoringNetworks,
    TokenizerReconstructions,
    evaluate,
    reconstructions,
    score,
    scoring,
    set_metrics,
)
from vistok.evaluation.pairs import truncated
from vistok.evaluation.report.score_table import row_names
from vistok.evaluation.scoring import Result
from vistok.evaluation.set_metrics import SetMetrics, disk_space
from vistok.images.ranges import to_nearest_float
from vistok.metrics import Inception, kid
from vistok.metrics.cmmd import cmmd
from vistok.metrics.feature_networks import FeatureNetwork
from vistok.metrics.feature_rows import FeatureRows
from vistok.metrics.jackknife import group_of
from vistok.metrics.precision_recall import precision_recall

ROOT = Path(__file__).parent.parent.parent
PROTOCOLS = {"one": Protocol(distances=["psnr"]), "other": Protocol(rounding="truncate", distances=["psnr"])}
ASKED, ALL = SetMetrics(intervals=True), SetMetrics(intervals=True, kid=True, precision_recall=True)
ADDED = ("kid_blocks", "kid_std_blocks", "precision_blocks", "recall_blocks", "cmmd_clip")


class Blocks(FeatureNetwork):
    """Features in place of a network's: means of 16 × 16 pixels."""

    name, dim = "blocks", 12

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1) / 255


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of 40 pictures in all ten groups."""
    root = tmp_path / "pictures"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i:02d}.png")
    return root


class Embedding(Blocks):
    """Directions in place of CLIP's."""

    name = "clip"

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(super().forward(images) - 0.5)


def scored(tokenizers: Sequence[Tokenizer], pictures: Path, output: Path, asked: SetMetrics = ASKED) -> list[Result]:
    """``asked`` with KID stands for CLIP too."""
    data = folder(str(pictures), image_size=32, batch_size=8, num_workers=0)
    networks = ScoringNetworks((Blocks(),), clip=Embedding() if asked.kid else None)
    sources = [TokenizerReconstructions(tokenizer) for tokenizer in tokenizers]
    return score(sources, data, PROTOCOLS, networks, partial_folder=output, partial_every=0, asked=asked)


def left_out(result: Result) -> dict[str, Tensor]:
    return {name: result.scores["adm"].leave_one_out(name)["frechet_blocks"] for name in PROTOCOLS}


def test_each_value_is_the_score_of_a_folder_without_the_group(make_tokenizer, pictures, tmp_path):
    tokenizer = make_tokenizer()
    (result,) = scored([tokenizer], pictures, tmp_path / "out")
    ours = left_out(result)
    assert not result.scores["adm"].found.unavailable and not torch.equal(ours["one"], ours["other"])
    removed = [path for path in pictures.iterdir() if group_of(path.name) == 3]
    assert len(removed) > 1
    for path in removed:
        path.unlink()
    (alone,) = scored([tokenizer], pictures, tmp_path / "out", SetMetrics())
    for name, metrics in alone.metrics(PROTOCOLS).items():
        assert ours[name].shape == (10,) and ours[name].dtype == torch.float64
        assert ours[name][3].item() == pytest.approx(metrics["frechet_blocks"], rel=1e-8)


def test_images_are_stored_once_for_all_tokenizers(make_tokenizer, pictures, tmp_path):
    first, second = make_tokenizer(), make_tokenizer(codebook_size=8)
    results = scored([first, second], pictures, tmp_path / "out")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "out").glob(".*.features"))
    assert sizes == [40 * 2 * 12 * 4, 40 * 2 * 2 * 12 * 4]  # two views of 12 floats: one side, and both
    (alone,) = scored([second], pictures, tmp_path / "alone")
    for name, own in left_out(alone).items():
        torch.testing.assert_close(left_out(results[1])[name], own, rtol=1e-12, atol=0)
        assert not torch.equal(left_out(results[0])[name], own)
    for result in results:
        result.forget()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("saved", [0, 1, 2])
def test_rows_ahead_of_the_saved_state_are_computed_again(make_tokenizer, pictures, tmp_path, monkeypatch, saved):
    """A process that ends after three batches, the last states of which were not written."""
    tokenizer, out = make_tokenizer(), tmp_path / "out"
    reconstruct, keep, done = reconstructions.reconstruct, scoring.keep, []

    def failing(*arguments):
        done.append(1)
        if len(done) == 4:
            raise RuntimeError("killed")
        return reconstruct(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(reconstructions, "reconstruct", failing)
        patched.setattr(scoring, "keep", lambda scores, batches, path: batches <= saved and keep(scores, batches, path))
        with pytest.raises(RuntimeError, match="killed"):
            scored([tokenizer], pictures, out)
    (features,) = out.glob(".*.features")
    assert features.stat().st_size == 3 * 8 * 2 * 2 * 12 * 4 and len(list(out.glob(".*.state"))) == (saved > 0)
    resumed, whole = scored([tokenizer], pictures, out)[0], scored([tokenizer], pictures, tmp_path / "whole")[0]
    assert resumed.names == whole.names and resumed.metrics(PROTOCOLS) == whole.metrics(PROTOCOLS)
    assert all(torch.equal(own, left_out(whole)[name]) for name, own in left_out(resumed).items())


def test_nothing_is_stored_for_nobody(make_tokenizer, pictures, tmp_path):
    (result,) = scored([make_tokenizer()], pictures, tmp_path / "out", SetMetrics())
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".state"]
    assert result.scores["adm"].leave_one_out("one") == {} and not result.scores["adm"].found.unavailable


def test_too_few_images_have_no_intervals(make_tokenizer, pictures, tmp_path):
    for path in sorted(pictures.iterdir())[15:]:
        path.unlink()
    (result,) = scored([make_tokenizer()], pictures, tmp_path / "out")
    assert result.scores["adm"].leave_one_out("one") == {}
    assert "needs at least 20 images" in result.scores["adm"].found.unavailable["frechet_intervals"]


def test_features_need_a_folder(make_tokenizer, pictures):
    with pytest.raises(ValueError, match="needs the folder partial_folder"):
        scored([make_tokenizer()], pictures, None)


def test_the_disk_that_is_taken(inception_stub):
    networks, protocols = ScoringNetworks((inception_stub,)), {"canonical": Protocol()}
    assert "take 0.8 GB on disk" in disk_space(ASKED, protocols, networks, 1, 50_000)  # 50,000 · 2 · 2,048 · 4
    assert "take 1.6 GB on disk" in disk_space(SetMetrics("all"), protocols, networks, 1, 50_000)
    protocols |= {"same": Protocol(lpips="float"), "titok": Protocol(crop="bicubic")}
    assert "take 2.5 GB on disk" in disk_space(ASKED, protocols, networks, 2, 50_000)  # two crops, three sides
    assert "take 33 kB an image on disk" in disk_space(ASKED, {"ibq": Protocol(crop="opencv")}, networks, 3, None)
    assert (
        disk_space(ASKED, protocols, networks, 2, 1000) == disk_space(SetMetrics(), protocols, networks, 1, 10**9) == ""
    )


@pytest.fixture
def inception_stub(monkeypatch) -> Inception:
    """Inception without its weights, of which only sizes are asked."""
    monkeypatch.setattr(Inception, "__init__", nn.Module.__init__)
    network = Inception()
    network.official, network.name = True, "inception"
    return network


def test_a_report_has_the_values_and_no_features_stay(compose, trained, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "networks_of", lambda config, protocols: (ScoringNetworks((Blocks(),)), {}))
    given = [f"tokenizer={trained}", f"data.root={pictures}", "data.image_size=32", "data.num_workers=0"]

    def report(name: str, *more: str) -> tuple[dict, dict]:
        output = tmp_path / "out" / name
        content = evaluate.evaluate(compose("eval", *given, f"run.out={output}", *more))
        assert not list(output.parent.glob(".*"))
        return content, dict(np.load(output.with_suffix(".npz")))

    reference = tmp_path / "reference.safetensors"
    content, values = report("one.json", f"metrics.save_reference={reference}")
    left = values["0/canonical/frechet_blocks/leave_one_out"]
    assert left.shape == (10,) and left.dtype == np.float64 and len(set(left)) == 10
    assert "frechet_intervals" not in content["unavailable"]
    assert left.mean() == pytest.approx(content["scores"][0]["metrics"]["frechet_blocks"], rel=0.2)
    content, values = report("two.json", "metrics.intervals=false")
    assert not any("leave_one_out" in name for name in values) and "frechet_intervals" not in content["unavailable"]
    more = ("metrics.kid=true", "metrics.precision_recall=true")
    content, values = report("three.json", f"metrics.reference={reference}", *more)
    assert not any("leave_one_out" in name for name in values)
    assert "recall_blocks" not in content["scores"][0]["metrics"]
    for name in ("frechet_intervals", "kid_blocks", "precision_blocks", "recall_blocks"):
        assert "reference.safetensors has no features" in content["unavailable"][name]
    assert row_names(content, content["scores"])[-3:] == ["kid_blocks", "precision_blocks", "recall_blocks"]
    content, _ = report("four.json", *more)
    assert {"precision_blocks", "recall_blocks"} <= content["scores"][0]["metrics"].keys()
    assert content["unavailable"].keys() & set(ADDED) == {"kid_blocks"}
    assert "kid_blocks is unavailable: its subsets have 1,000 images" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(evaluate, "networks_of", lambda config, protocols: (ScoringNetworks(), {}))
    content, _ = report("five.json", *more)
    names = ("kid", "precision", "recall")
    assert {name: content["unavailable"][name] for name in names} == dict.fromkeys(names, "there is no feature network")
    with pytest.raises(ValueError, match="^metrics.intervals=some must be true, false or all$"):
        report("six.json", "metrics.intervals=some")


@pytest.fixture
def small_subsets(monkeypatch) -> None:
    """KID's subsets are of 20 images."""
    monkeypatch.setattr(set_metrics, "SUBSET_SIZE", 20)
    monkeypatch.setattr(kid.kernel_distance, "__defaults__", (100, 20, 2020))


def test_metrics_of_all_features(make_tokenizer, pictures, tmp_path, small_subsets):
    """The functions themselves on features by hand, for the second of two tokenizers."""
    tokenizers = [make_tokenizer(codebook_size=8), make_tokenizer()]
    data = folder(str(pictures), image_size=32, batch_size=8, num_workers=0)
    originals = torch.stack([data.test[0, i].image for i in range(40)])
    with torch.no_grad():
        shown = truncated(tokenizers[1].eval().reconstruct(to_nearest_float(originals))[0].clamp(-1, 1))
    pairs = [shown, truncated(to_nearest_float(originals))]

    def rows(network: FeatureNetwork) -> list[FeatureRows]:
        return [FeatureRows(40, lambda places, own=network(own): own[list(places)]) for own in pairs]

    blocks, embedding = rows(Blocks()), rows(Embedding())
    expected = [*kid.kernel_distance(*blocks), *precision_recall(*blocks), cmmd(*embedding)]
    result = scored(tokenizers, pictures, tmp_path / "out", ALL)[1]
    metrics = result.metrics(PROTOCOLS)
    assert [metrics["other"][name] for name in ADDED] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert metrics["one"]["cmmd_clip"] != metrics["other"]["cmmd_clip"] > 1e-3


def test_fewer_images_than_a_subset(make_tokenizer, pictures, tmp_path):
    (result,) = scored([make_tokenizer()], pictures, tmp_path / "out", ALL)
    assert result.scores["adm"].found.unavailable == {"kid_blocks": "its subsets have 1,000 images, more than 40"}
    assert "kid_blocks" not in result.metrics(PROTOCOLS)["one"]


RANKS = """
import os, sys
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_set_metrics as tests
from vistok.distributed.process_group import processes
from vistok.formats.load import load

torch.set_num_threads(1)
children = []
for rank in range(2):
    pid = os.fork()
    if pid == 0:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]}
        with processes("cpu"):
            (result,) = tests.scored([load(sys.argv[3])], Path(sys.argv[4]), Path(sys.argv[5]), tests.ALL)
        torch.save([tests.left_out(result), result.metrics(tests.PROTOCOLS)], f"{sys.argv[5]}/{rank}.pt")
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""


def test_two_processes_give_the_same(python, make_tokenizer, pictures, tmp_path):
    from vistok.formats.native import save

    save(make_tokenizer(), tmp_path / "tokenizer")
    (tmp_path / "out").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    places = [tmp_path / "tokenizer", pictures, tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"}
    command = [python, "-c", RANKS, str(Path(__file__).parent), port, *map(str, places)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (one,) = scored([make_tokenizer()], pictures, tmp_path / "one", ALL)
    assert {"precision_blocks", "recall_blocks", "cmmd_clip"} <= one.metrics(PROTOCOLS)["one"].keys()
    for rank in range(2):
        distances, metrics = torch.load(tmp_path / "out" / f"{rank}.pt", weights_only=True)
        for name, own in left_out(one).items():
            torch.testing.assert_close(distances[name], own, rtol=1e-8, atol=0)
            assert metrics[name] == pytest.approx(one.metrics(PROTOCOLS)[name], rel=1e-8)
