"""``eval.py``: what it reports, on how many processes, after which faults, and how it refuses."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.models import mobilenet_v2

import vistok
from vistok import files
from vistok.commands import failures
from vistok.evaluation import evaluate as evaluation_evaluate
from vistok.evaluation import identity
from vistok.formats.native import save
from vistok.images.ranges import to_float, to_uint8
from vistok.metrics import psnr
from vistok.processes import locks
from vistok.tokenizer import fingerprint

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No weights on disk, and none to be had."""

    def refuse(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory):
    """Words that name a network and its file of weights: initialised after He, so that images come out apart."""
    path = tmp_path_factory.mktemp("network") / "weights.pt"
    torch.manual_seed(0)
    network = mobilenet_v2(weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)
    return ["feature_network=torchvision", "feature_network.model=mobilenet_v2", f"feature_network.weights={path}"]


QUICK = ["metrics.lpips=null", "feature_network=none"]


def words(tokenizer, output, *overrides):
    return (f"tokenizer={tokenizer}", f"run.out={output}", "data.image_size=32", "data.num_workers=0", *overrides)


def frechet(metrics: dict[str, float]) -> float:
    """The Fréchet distance of ``mobilenet``, whose name shows the hash of its weights."""
    (value,) = (own for name, own in metrics.items() if re.fullmatch("frechet_mobilenet_v2_[0-9a-f]{8}", name))
    return value


def inverted(path: Path) -> None:
    """Replace an image by its negative."""
    with Image.open(path) as image:
        negative = ImageOps.invert(image.convert("RGB"))
    negative.save(path)


def evaluate(compose, tokenizer, tmp_path, *overrides, name="report.json"):
    output = tmp_path / name
    report = evaluation_evaluate.evaluate(compose("eval", *words(tokenizer, output, *overrides)))
    assert json.loads(output.read_text()) == json.loads(json.dumps(report))
    return report


def test_a_folder(compose, trained, photos, tmp_path, offline, capsys):
    report = evaluate(compose, trained / "tokenizer", tmp_path, f"data.root={photos}", "data.batch_size=5")
    assert set(report["unavailable"]) == {"lpips_alex", "lpips_vgg", "rfid", "ms_ssim"}
    printed = capsys.readouterr().out
    assert printed.index("lpips_alex is unavailable") < printed.index("psnr")  # said before the work
    assert report["data"]["images"] == 12
    (score,) = report["scores"]
    metrics = score["metrics"]
    assert metrics["images"] == 12 and metrics["tokens"] == 12 * 16
    assert metrics["tokens_per_image"] == 16 and metrics["bits_per_image"] == 16 * 4  # 16 codewords: 4 bits each

    # The same by hand, one image at a time.
    tokenizer = vistok.load(trained)
    from vistok.data import folder

    data = folder(str(photos), image_size=32, batch_size=1)
    images = torch.stack([data.test[0, i].image for i in range(12)])
    codes = torch.cat([tokenizer.tokenize(to_float(image[None])) for image in images])
    reconstructions = to_uint8(tokenizer.detokenize(codes))
    assert metrics["psnr"] == pytest.approx(psnr(reconstructions, images).mean().item(), abs=1e-3)
    assert metrics["usage"] == len(codes.unique()) / 16

    values = np.load(tmp_path / "report.npz")
    assert values["names"].tolist() == sorted(data.test.names())
    assert values["0/canonical/psnr"].tolist() == pytest.approx(psnr(reconstructions, images).tolist(), abs=1e-3)
    assert values["0/adm/counts/0"].tolist() == codes.flatten().bincount(minlength=16).tolist()
    assert values["0/adm/tokens"].tolist() == [16] * 12


def test_all_that_a_number_is_of_stands_beside_it(compose, trained, photos, tmp_path, capsys):
    report = evaluate(compose, trained, tmp_path, f"data.root={photos}", *QUICK)
    printed = capsys.readouterr().out
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*") if path.suffix in (".png", ".jpg"))
    assert report["data"]["sha256_of_names"] == identity.names_hash(names)
    by_hand = []
    for name in names:
        with Image.open(photos / name) as image:
            pixels = np.asarray(image.convert("RGB"))
        size = f"{pixels.shape[1]}x{pixels.shape[0]} RGB\n"
        by_hand.append(hashlib.sha256(size.encode() + pixels.tobytes()).hexdigest())
    lines = sorted(f"{name} {own}" for name, own in zip(names, by_hand, strict=True))
    expected = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert report["data"]["sha256_of_images"] == expected
    assert np.load(tmp_path / "report.npz")["sha256"].tolist() == by_hand
    assert expected in (tmp_path / "report.html").read_text()
    assert report["scores"][0]["hash"] == report["protocols"]["canonical"]["hash"] == "19b7a2c3"
    assert report["tokenizers"][0]["sha256"] == fingerprint(vistok.load(trained))
    for shown in ("canonical", "19b7a2c3", expected[:8], "12 images", "float32", vistok.__version__):
        assert shown in printed


def test_several_tokenizers_and_protocols(compose, trained, photos, tmp_path, mobilenet, monkeypatch):
    """Images that are cut alike are reconstructed once, and seen by the network once for all tokenizers."""
    other = tmp_path / "other"
    tokenizer = vistok.load(trained)
    with torch.no_grad():
        tokenizer.decoder.last_layer.mul_(0.5)
    save(tokenizer, other)
    calls = []
    reconstruct = vistok.Tokenizer.reconstruct
    monkeypatch.setattr(
        vistok.Tokenizer,
        "reconstruct",
        lambda self, *arguments: calls.append(len(arguments[0])) or reconstruct(self, *arguments),
    )
    chosen = "protocol=[canonical,llamagen,ibq,vqgan_lc,titok,fvq]"
    report = evaluate(
        compose,
        f"[{trained},{other}]",
        tmp_path,
        f"data.root={photos}",
        "data.batch_size=12",
        "metrics.lpips=null",
        chosen,
        *mobilenet,
    )
    assert (
        calls == [12] * 5 * 2
    )  # ibq and vqgan_lc read and crop alike; canonical reads files in another way than llamagen
    scores = {(score["tokenizer"], score["protocol"]): score["metrics"] for score in report["scores"]}
    assert len(scores) == 12
    for path in (str(trained), str(other)):
        own = {protocol: scores[path, protocol] for protocol in report["protocols"]}
        assert own["canonical"]["psnr"] == own["llamagen"]["psnr"] != own["ibq"]["psnr"]
        assert own["llamagen"]["ssim_skimage7_range2"] > own["canonical"]["ssim_skimage7"]
        assert len({frechet(metrics) for metrics in own.values()}) == 5  # canonical is llamagen's
        assert "psnr" not in own["titok"] and "psnr_y" in own["fvq"]
    # scored alone, the second tokenizer gets what it got after the first
    alone = evaluate(
        compose,
        other,
        tmp_path,
        f"data.root={photos}",
        "data.batch_size=12",
        "metrics.lpips=null",
        *mobilenet,
        name="alone.json",
    )
    for name, value in alone["scores"][0]["metrics"].items():
        assert value == pytest.approx(scores[str(other), "canonical"][name], rel=1e-9, abs=1e-12), name


def test_another_network_gives_a_number_of_its_own_name(compose, trained, photos, tmp_path, mobilenet):
    report = evaluate(compose, trained, tmp_path, "metrics.lpips=null", f"data.root={photos}", *mobilenet)
    metrics = report["scores"][0]["metrics"]
    assert frechet(metrics) > 0.1 and not {"rfid", "sfid", "lpips_alex"} & metrics.keys()
    ((name, network),) = report["networks"].items()
    assert name in metrics and name.endswith(network["sha256"][:8]) and network["official"] is False


def test_lpips_of_a_local_file(compose, trained, photos, tmp_path):
    from torchvision.models import alexnet

    torch.save(alexnet(weights=None).features.state_dict(prefix="features."), tmp_path / "weights.pt")
    given = [
        "feature_network=none",
        f"metrics.lpips.alex={tmp_path}/weights.pt",
        "metrics.lpips.vgg=null",
        f"data.root={photos}",
    ]
    reports = [evaluate(compose, trained, tmp_path, *given)]
    given[1] = "metrics.lpips.alex=random"
    reports += [evaluate(compose, trained, tmp_path, *given, name=f"{n}.json") for n in range(2)]
    names = []
    for report in reports:
        assert set(report["unavailable"]) == {"ms_ssim"}
        metrics = report["scores"][0]["metrics"]
        ((name, network),) = report["networks"].items()
        assert re.fullmatch("lpips_alex_[0-9a-f]{8}", name) and name.endswith(network["sha256"][:8])
        assert metrics[name] > 0 and "lpips_alex" not in metrics
        names.append(name)
    assert names[0] != names[1] == names[2]  # random weights are the same in every evaluation
    assert names[1].replace("_", " ") in (tmp_path / "1.html").read_text()


def test_statistics_of_the_images_are_saved_and_reused(compose, trained, photos, tmp_path, mobilenet, monkeypatch):
    given = [f"data.root={photos}", "metrics.lpips=null", *mobilenet]
    file = tmp_path / "reference.safetensors"
    first = evaluate(compose, trained, tmp_path, *given, f"metrics.save_reference={file}")
    seen = []
    from vistok.metrics import TorchvisionFeatures

    forward = TorchvisionFeatures.forward
    monkeypatch.setattr(
        TorchvisionFeatures, "forward", lambda self, images: seen.append(len(images)) or forward(self, images)
    )
    second = evaluate(compose, trained, tmp_path, *given, f"metrics.reference={file}", name="second.json")
    assert sum(seen) == 12 + 1  # reconstructions only, and one picture that tells the width
    assert second["scores"] == first["scores"]

    def refused(*changed: str) -> str:
        with pytest.raises(ValueError) as error:
            evaluate(compose, trained, tmp_path, *given, f"metrics.reference={file}", *changed, name="third.json")
        assert not (tmp_path / "third.json").exists()
        return str(error.value)

    assert "crop is 'adm', not 'bicubic'" in refused("protocol=titok")
    assert "image_size is 32, not 40" in refused("data.image_size=40")
    (photos / "01.png").rename(photos / "99.png")
    assert "names_sha256 is " in refused()
    (photos / "99.png").rename(photos / "01.png")
    inverted(photos / "01.png")
    message = refused()
    assert "images_sha256 is " in message and "names_sha256" not in message
    (photos / "01.png").unlink()
    assert "images is 12, not 11" in refused()
    weights = Path(mobilenet[2].partition("=")[2])
    state = torch.load(weights, weights_only=True)
    state["features.0.1.bias"] += 0.1
    torch.save(state, tmp_path / "other.pt")
    assert "network is 'frechet_mobilenet_v2_" in refused(f"feature_network.weights={tmp_path}/other.pt")
    assert "metrics.reference=/nowhere is not a file" in refused("metrics.reference=/nowhere")
    assert "cannot be read as a file of an evaluation" in refused(f"metrics.reference={photos}/notes.txt")


def test_broken_reconstructions_are_named_and_nothing_is_written(compose, trained, photos, tmp_path, monkeypatch):
    reconstruct = vistok.Tokenizer.reconstruct

    def broken(self, images, context):
        reconstruction, emitted = reconstruct(self, images, context)
        reconstruction[-1, 0, 3, 3] = float("nan")
        return reconstruction, emitted

    monkeypatch.setattr(vistok.Tokenizer, "reconstruct", broken)
    with pytest.raises(ValueError, match="NaN or infinite pixels, of 10.png"):
        evaluate(compose, trained, tmp_path, f"data.root={photos}", "data.batch_size=7", *QUICK)
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "report.npz").exists()


@pytest.mark.parametrize("overrides, error, message", [
    (["data.root=/nowhere"], "ValueError", "data.root=/nowhere is not a folder"),
    (["data=sample", "data.image_size=60", "data.batch_size=2"], "ValueError", "data.image_size=60 is not a multiple"),
    (["data=sample", "tokenizer=/nowhere"], "FileNotFoundError", "is not an exported tokenizer"),
    (["data=sample", "protocol.canonical.crop=square"], "ValueError", "crop=square must be one of adm, bicubic"),
    (["data=sample", "model.rate=0.5"], "ValueError", "model.rate=0.5 needs a dynamic head"),
    (["data=sample", "model.tile=1"], "ValueError", "model.tile=1 must be at least"),
    (["data=sample", "model.tile=64", "model.overlap=32"], "ValueError", "model.overlap=32 must be 0 or more, and"),
    (["data=sample", "model.overlap=32"], "ValueError", "model.overlap=32 needs model.tile"),
    (["data=sample", "+data.resize=0"], "ValueError", "the protocol decides how images are cropped"),
    ([], "ValueError", "missing on the command line: data.root=..."),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(compose, trained, tmp_path, overrides, error, message):
    given = [f"tokenizer={trained}", f"run.out={tmp_path}/report.json", *QUICK, *overrides]
    if "+data.resize=0" in overrides:
        Image.new("RGB", (256, 256)).save(tmp_path / "a.png")
        given = [*given[:-2], f"data.root={tmp_path}", "data.resize=0"]
    with pytest.raises(Exception) as refused:
        evaluation_evaluate.evaluate(compose("eval", *given))
    cause = refused.value.__cause__ if type(refused.value).__name__ == "InstantiationException" else refused.value
    assert type(cause).__name__ == error and message in str(cause)
    assert not (tmp_path / "report.json").exists()


def test_a_report_is_not_overwritten(compose, trained, photos, tmp_path):
    (tmp_path / "report.json").write_text("mine")
    with pytest.raises(ValueError, match="exists already and is not overwritten"):
        evaluate(compose, trained, tmp_path, f"data.root={photos}")
    assert (tmp_path / "report.json").read_text() == "mine"


def test_json_has_no_numbers_that_json_has_not(tmp_path):
    content = {"a": float("nan"), "b": {"c": float("inf"), "d": 1.5}, "e": [{"f": float("nan")}]}
    files.write_json(content, tmp_path / "x" / "y.json")
    read = json.loads((tmp_path / "x" / "y.json").read_text())
    assert read == {"a": None, "b": {"c": None, "d": 1.5}, "e": [{"f": None}]}


KILLED = """
import os, signal, sys
import hydra
from vistok.evaluation import evaluate
from vistok import files

replaced = os.replace
writes = 0

def replace(source, target):
    global writes
    writes += str(target).endswith(".state")
    if writes == 3:  # in the middle of the third write
        os.kill(os.getpid(), signal.SIGKILL)
    replaced(source, target)

files.os.replace = replace
with hydra.initialize_config_dir(sys.argv[1], version_base="1.3"):
    config = hydra.compose("eval", overrides=sys.argv[2:])
evaluate.evaluate(config)
"""


def program(python: str, source: str, *arguments: str) -> subprocess.CompletedProcess:
    threads = str(torch.get_num_threads())  # last digits depend on their number
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": threads}
    command = [python, "-c", source, str(ROOT / "configs"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(python, compose, trained, photos, tmp_path, mobilenet, monkeypatch):
    given = [f"data.root={photos}", "data.batch_size=2", "metrics.lpips=null", "run.partial_every=0", *mobilenet]
    killed = program(python, KILLED, *words(trained, tmp_path / "report.json", *given))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "report.json").exists()
    (partial,) = tmp_path.glob(".*.state")

    batches = []
    reconstruct = vistok.Tokenizer.reconstruct
    monkeypatch.setattr(
        vistok.Tokenizer, "reconstruct", lambda self, *arguments: batches.append(1) or reconstruct(self, *arguments)
    )
    other = evaluate(compose, trained, tmp_path, *given, "protocol=titok", name="other.json")
    assert len(batches) == 6 and partial.exists()  # another protocol: another evaluation
    resumed = evaluate(compose, trained, tmp_path, *given)
    assert len(batches) == 6 + 4  # two of six were over
    assert not partial.exists() and other["scores"] != resumed["scores"]
    whole = evaluate(compose, trained, tmp_path, *given, name="whole.json")
    assert resumed["scores"] == whole["scores"] and resumed["scores"][0]["metrics"]["images"] == 12
    ours, theirs = np.load(tmp_path / "report.npz"), np.load(tmp_path / "whole.npz")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs.files)


def test_a_signal_ends_an_evaluation_after_its_batch(compose, trained, photos, tmp_path, monkeypatch, capsys):
    given = [f"data.root={photos}", "data.batch_size=2", *QUICK]
    reconstruct, batches = vistok.Tokenizer.reconstruct, []

    def interrupted(self, *arguments):
        batches.append(1)
        if len(batches) == 3:
            signal.raise_signal(signal.SIGTERM)
        return reconstruct(self, *arguments)

    monkeypatch.setattr(vistok.Tokenizer, "reconstruct", interrupted)
    with pytest.raises(SystemExit) as ended:
        failures.guard(evaluate, compose, trained, tmp_path, *given, again="the same command goes on")
    assert ended.value.code == 128 + signal.SIGTERM and len(batches) == 3
    assert capsys.readouterr().err == "interrupted by SIGTERM; the same command goes on\n"
    (state,) = tmp_path.glob(".*")  # and no lock
    report = evaluate(compose, trained, tmp_path, *given)
    assert len(batches) == 6 and report["data"]["images"] == 12 and not state.exists()


@pytest.mark.parametrize("changed", ["weights", "pixels"])
def test_a_state_of_other_weights_or_images_is_not_continued(
    compose, trained, photos, tmp_path, mobilenet, monkeypatch, changed
):
    """The network's file or an image is replaced at the same path between a signal and the next call."""
    for path in [*photos.glob("0[3-9].png"), *photos.glob("1*.png"), *photos.glob("more/*")]:
        path.unlink()  # two are left
    weights = tmp_path / "weights.pt"
    shutil.copy(mobilenet[2].partition("=")[2], weights)
    network = [*mobilenet[:2], f"feature_network.weights={weights}"] if changed == "weights" else QUICK[1:]
    given = [f"data.root={photos}", "data.batch_size=1", "metrics.lpips=null", *network]
    reconstruct, batches = vistok.Tokenizer.reconstruct, []

    def interrupted(self, *arguments):
        batches.append(1)
        if len(batches) == 1:
            signal.raise_signal(signal.SIGTERM)
        return reconstruct(self, *arguments)

    monkeypatch.setattr(vistok.Tokenizer, "reconstruct", interrupted)
    with pytest.raises(SystemExit):
        failures.guard(evaluate, compose, trained, tmp_path, *given, again="the same command goes on")
    assert list(tmp_path.glob(".*.state"))
    if changed == "weights":
        state = torch.load(weights, weights_only=True)
        state["features.0.1.bias"] += 0.1
        torch.save(state, weights)
    else:
        inverted(photos / "01.png")
    report = evaluate(compose, trained, tmp_path, *given)
    assert len(batches) == 1 + 2 and report["data"]["images"] == 2


def test_images_that_change_between_two_tokenizers(compose, trained, photos, tmp_path, make_tokenizer, monkeypatch):
    save(make_tokenizer(), tmp_path / "other")
    given = [f"data.root={photos}", "data.batch_size=12", *QUICK]
    reconstruct = vistok.Tokenizer.reconstruct
    monkeypatch.setattr(
        vistok.Tokenizer,
        "reconstruct",
        lambda self, *arguments: inverted(photos / "01.png") or reconstruct(self, *arguments),
    )
    with pytest.raises(ValueError, match="changed while 2 tokenizers were scored"):
        evaluate(compose, f"[{trained},{tmp_path}/other]", tmp_path, *given)
    assert len(list(tmp_path.glob(".*.state"))) == 1  # of the first, with which the same command goes on


def test_an_output_in_use(compose, trained, photos, tmp_path):
    given = (f"data.root={photos}", "data.batch_size=12", *QUICK)
    with locks.held(tmp_path / ".report.json.lock", "another"):
        with pytest.raises(ValueError, match=f"^run.out=.*report.json is in use by pid {os.getpid()} on "):
            evaluate(compose, trained, tmp_path, *given)
        evaluate(compose, trained, tmp_path, *given, name="other.json")
    with pytest.raises(ValueError, match="^run.out=/proc/x/report.json: "):
        evaluate(compose, trained, Path("/proc/x"), *given)


@pytest.mark.parametrize("words, message", [
    (["data.image_size=abc"], "^data.image_size=abc must be a whole number$"),
    (["data.image_size=0"], "^data.image_size must be at least 1, not 0$"),
    (["data.batch_size=0"], "^data.batch_size must be at least 1, not 0$"),
    (["tokenizer=[1]"], r"^tokenizer=\[1\] must be text or a list, each text$"),
    (["model.rate=abc"], "^model.rate=abc must be a number or null$"),
    (["run.device=mps"], "^device=mps must be cpu or cuda: .* Apple's GPUs"),
    (["run.device=nonsense"], "^device=nonsense: Expected one of cpu"),
    (["data.root=5"], "^data.root=5 must be text, in quotes: 'data.root=\"5\"'$"),
    (["data.num_workers=-1"], "num_workers"),
    (["run.partial_every=abc"], "^run.partial_every=abc must be a number$"),
    (["metrics.intervals=often"], "^metrics.intervals=often must be true, false or all$"),
    (["metrics.lpips.alex=5"], "^metrics.lpips=.* must be a mapping to text or null or null$"),
    (["protocol.canonical._target_=nothing.at_all"], "No module named 'nothing'"),
])  # fmt: skip
def test_values_of_another_kind(compose, trained, photos, tmp_path, words, message):
    with pytest.raises(Exception) as refused:
        evaluate(compose, trained, tmp_path, f"data.root={photos}", "feature_network=none", *words)
    assert re.search(message, failures.message_of(refused.value)), failures.message_of(refused.value)


RANKS = """
import os, sys
import hydra
import torch
from vistok.evaluation import evaluate

torch.set_num_threads(1)
with hydra.initialize_config_dir(sys.argv[1], version_base="1.3"):
    for world_size in (1, 2, 3):
        children = []
        for rank in range(world_size):
            pid = os.fork()
            if pid == 0:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(int(sys.argv[2]) + world_size)}
                output = f"run.out={os.environ['OUT']}/{world_size}.json"
                config = hydra.compose("eval", overrides=[*sys.argv[3:], output])
                evaluate.evaluate(config)
                sys.stdout.flush()
                os._exit(0)
            children.append(pid)
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""


@pytest.mark.slow
def test_torchrun(python, trained, photos, tmp_path):
    """The launcher itself starts two processes of ``eval.py``, which report what one does."""
    given = ["data.batch_size=5", f"data.root={photos}", *QUICK]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for launcher, name in (([], "one.json"), (torchrun, "two.json")):
        command = [python, *launcher, str(ROOT / "eval.py"), *words(trained, tmp_path / name, *given)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("written to") == 1  # only rank 0 speaks
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert (one["processes"], two["processes"]) == (1, 2) and two["data"] == one["data"]
    assert one["scores"][0]["metrics"]["images"] == 12
    for name, value in one["scores"][0]["metrics"].items():
        assert two["scores"][0]["metrics"][name] == pytest.approx(value, rel=1e-9), name
    pages = [(tmp_path / name).read_text() for name in ("one.html", "two.html")]
    shown = [[line for line in page.split("<figure") if "data:image" in line] for page in pages]
    assert len(shown[0]) > 12 and shown[0][:-1] == shown[1][:-1]  # the last goes on to the provenance
    assert not list(tmp_path.glob(".*.state"))


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["folder", "shards"])
def test_one_two_and_three_processes_report_the_same(python, trained, photos, tmp_path, mobilenet, monkeypatch, source):
    """Of 11 images, whose number no other divides, each is scored once: in crops and in its own size, stored too."""
    (photos / "01.png").unlink()
    for path in photos.rglob("*.*g"):
        stored = tmp_path / "stored" / path.relative_to(photos).with_suffix(".png").name
        stored.parent.mkdir(exist_ok=True)
        Image.fromarray(np.array(Image.open(path)) // 2).save(stored)
    monkeypatch.setenv("OUT", str(tmp_path))
    if source == "folder":
        for path in (photos / "more").iterdir():  # stored names have no folder
            path.rename(photos / path.name)
        data = [f"data.root={photos}"]
    else:
        import tarfile

        with tarfile.open(tmp_path / "images.tar", "w") as archive:
            for path in sorted(photos.rglob("*.*")):
                archive.add(path, path.name)
        data = ["data=shards", f"data.val_urls={tmp_path}/images.tar"]
    given = words(trained, "x", *data, "data.batch_size=2", "metrics.lpips=null", *mobilenet)
    given += ("protocol=[canonical,ibq,native]", f"reconstructions={tmp_path}/stored")
    given = [word for word in given if not word.startswith("run.out=")]
    done = program(python, RANKS, str(free_port()), *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("written to") == 3  # only rank 0 speaks
    one, *others = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2, 3))
    values = [np.load(tmp_path / f"{n}.npz") for n in (1, 2, 3)]
    assert one["data"]["images"] == 11
    for other, own in zip(others, values[1:], strict=True):
        assert other["data"] == one["data"]
        for score, expected in zip(other["scores"], one["scores"], strict=True):
            assert frechet(expected["metrics"]) > 0.1
            for name, value in expected["metrics"].items():
                assert score["metrics"][name] == pytest.approx(value, rel=1e-6), name
            assert "psnr" in expected["intervals"] and score["intervals"].keys() == expected["intervals"].keys()
            for name, limits in expected["intervals"].items():
                assert score["intervals"][name] == pytest.approx(limits, rel=1e-6), name
        for name in values[0].files:
            assert np.array_equal(own[name], values[0][name]), name


def test_names_that_are_not_utf8(compose, trained, photos, tmp_path, capfd):
    """Files, a broken one among them, and the folder itself: they are spelled out wherever they are written."""
    root = tmp_path / os.fsdecode(b"photos \xe9")
    photos.rename(root)
    next(root.glob("*.png")).rename(root / os.fsdecode(b"\xfc.png"))
    (root / os.fsdecode(b"broken \xff.png")).write_bytes(b"no image")
    report = evaluate(compose, trained, tmp_path, f"data.root='{root}'", "data.max_unreadable=0.5", *QUICK)
    assert report["data"]["images"] == 12 and report["data"]["source"] == rf"{tmp_path}/photos \udce9"
    assert report["data"]["unreadable"][0].startswith(rf"{tmp_path}/photos \udce9/broken \udcff.png: Unidentified")
    assert r"skipped: " in capfd.readouterr().out
    assert r"\udcfc.png" in np.load(tmp_path / "report.npz")["names"].tolist()
    page = (tmp_path / "report.html").read_bytes().decode()
    assert r"photos \udce9" in page
