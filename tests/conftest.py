"""Golden values, and small tokenizers to test with."""

import copy
import functools
import gc
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import numpy as np
import pytest
import tifffile
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.losses import perceptual
from vistok.pretrained import fixed_seed
from vistok.quantizers import VectorQuantizer
from vistok.training import run

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared"  # golden files too large for the repository, where there are any


def pytest_configure() -> None:
    """Take signals that whoever started the tests ignores (``nohup``, ``&``) as usual: vistok would ignore them too."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what was imported: looking at it again took an eighth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_unconfigure() -> None:
    """Libraries that look for their leaks at the end would find all that is frozen."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _pages_of_this_process_are_not_kept():
    """Else the process of all tests would keep whatever the largest of them ever took: 9 GB were seen.

    For the session, since fixtures of a module run before those of a test.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("vistok.speed.keep_freed_pages", lambda: False)
        patched.setattr("vistok.evaluation.evaluate.keep_freed_pages", lambda: False)
        yield


@pytest.fixture(autouse=True)
def _loader_processes_of_other_tests_live_on(monkeypatch):
    """A command that fails ends those of its process, which here is that of other tests too: torch would tell them."""
    monkeypatch.setattr("vistok.commands.failures._end_workers", lambda: None)


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """An executable to start processes with, in the place of ``sys.executable``: it forks one that has imported all.

    Words, environment, folder, streams, signals, exit status and ``__main__`` are those of a new interpreter. Not so:
    the number that a parent sees is not the process's own, ``ps`` does not show its words, limits (``ulimit``) and the
    seed of hashes are those of the tests, no warning of an import is said, and variables that a library reads while it
    is imported come too late. A test of any of these uses ``sys.executable``.
    """
    folder = Path(tempfile.mkdtemp(prefix="vistok-", dir="/tmp"))  # the path of a socket must be short
    words = [sys.executable, "-I", "-S", HERE / "standins" / "forked.py", "ask", folder / "socket", folder / "python"]
    (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    (folder / "python").chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, HERE / "standins" / "forked.py", "serve", str(listening.fileno())],
            pass_fds=[listening.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    yield str(folder / "python")
    server.communicate(b"end")
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Any]:
    """A page in Chromium (``tests/standins/browser.py``); tests are skipped where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE / "standins")
        import browser
    sys.modules.pop("browser")
    with browser.browsing(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the documentation as a site, built in strict mode: any warning is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(HERE.parent / "mkdocs.yml"), site_dir=str(folder)))
    return folder


@pytest.fixture
def processes_with() -> Callable[[list[str]], list[int]]:
    """``processes_with(words)``: the numbers of processes with all of these words on their command line."""

    def find(words: list[str]) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if all(word.encode() in line for word in words):
                found.append(int(process.name))
        return found

    return find


@pytest.fixture
def golden() -> Callable[[str, str], dict[str, Tensor]]:
    """``golden(file, group)``: the tensors of one group of a file in ``tests/golden``."""

    def read(file: str, group: str) -> dict[str, Tensor]:
        tensors = load_file(HERE / "golden" / f"{file}.safetensors")
        return {key.removeprefix(f"{group}/"): t for key, t in tensors.items() if key.startswith(f"{group}/")}

    return read


@pytest.fixture
def family_file() -> Callable[[str], Path]:
    """``family_file(name)``: the weights of a whole published model in its authors' layout."""

    def find(name: str) -> Path:
        path = SHARED / "golden" / f"{name}.safetensors"
        if not path.is_file():
            pytest.skip(f"the golden files of whole models are not in the repository, and {path} is not there")
        return path

    return find


@pytest.fixture
def family(family_file) -> Callable[[str], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """``family(name)``: the weights and the inputs and outputs of a whole published model."""

    def read(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        path = family_file(name)
        return load_file(path), load_file(path.with_suffix(".io.safetensors"))

    return read


@pytest.fixture
def make_tokenizer() -> Callable[..., Tokenizer]:
    """``make_tokenizer(cosine=True, ...)``: a tiny f4 tokenizer with the vector quantizer's arguments."""

    def make(codebook_size: int = 32, dim: int = 4, **arguments) -> Tokenizer:
        torch.manual_seed(0)
        size = {"channels": 8, "multipliers": (1, 2, 2), "num_blocks": 1, "attention": (2,), "dim": 16}
        quantizer = VectorQuantizer(codebook_size, dim, **arguments)
        nn.init.normal_(quantizer.codewords)
        return Tokenizer(
            CNNEncoder(**size), quantizer, CNNDecoder(**size), nn.Conv2d(16, dim, 1), nn.Conv2d(dim, 16, 1)
        )

    return make


def close(actual: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    """Within ``tolerance`` of the largest absolute value expected."""
    bound = tolerance * float(expected.detach().abs().max())
    torch.testing.assert_close(actual, expected.reshape(actual.shape), rtol=0, atol=bound)


@pytest.fixture
def allocated() -> Callable[[Callable[[], object]], int]:
    """``allocated(run)``: the most bytes that torch had handed out at once, as the benchmarks measure it."""
    spec = importlib.util.spec_from_file_location("measure", HERE.parent / "benchmarks" / "measure.py")
    measure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measure)
    return measure.allocated


@pytest.fixture(name="close")
def close_fixture() -> Callable[..., None]:
    return close


def compose(name: str, *overrides: str) -> DictConfig:
    """A config as ``train.py`` (``train``) or ``eval.py`` (``eval``) would compose it."""
    return copy.deepcopy(composed(name, overrides))


@functools.cache
def composed(name: str, overrides: tuple[str, ...]) -> DictConfig:
    """The same, made once for all tests of a process; not to be changed."""
    with (
        hydra.initialize_config_dir(str(HERE.parent / "configs"), version_base="1.3"),
        mock.patch.object(OmegaConf, "load", lambda file: copy.deepcopy(loaded(file.name, file.read()))),
    ):
        return hydra.compose(name, overrides=list(overrides))


@functools.cache
def loaded(name: str, text: str) -> DictConfig:
    """A YAML file, parsed once for all tests of a process: parsing was half the time of composing."""
    return OmegaConf.create(text)


TINY = [
    "backbone=cnn_f8_small",
    "trainer=debug",
    "backbone.encoder.channels=8",
    "model.codebook_size=16",
    "model.latent_dim=4",
    "data.image_size=32",
]


def train(run_dir: Path, *overrides: str) -> Path:
    """Train a tiny tokenizer for two updates, unless overridden; the run folder."""
    config = compose("train", *TINY, *overrides)  # without the folder, which would be another config in each test
    config.run.dir = str(run_dir)
    run.train(config, [*TINY, *overrides, f"run.dir={run_dir}"])
    return run_dir


def quiet_trainer(**arguments):
    """A trainer on the CPU that prints and writes nothing, with further arguments of Lightning's ``Trainer``."""
    import pytorch_lightning as pl

    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    usual = {"accelerator": "cpu", "max_epochs": -1, "num_sanity_val_steps": 0, **dict.fromkeys(quiet, False)}
    return pl.Trainer(**(usual | arguments))


@pytest.fixture(name="compose")
def compose_fixture() -> Callable[..., DictConfig]:
    return compose


@pytest.fixture(name="train", scope="session")
def train_fixture() -> Callable[..., Path]:
    return train


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a tiny finished run; not to be changed."""
    return train(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def networks_made_once(monkeypatch) -> None:
    """Perceptual networks with random weights are copies of one, which takes less time than their initialisation.

    As all of them do but LPIPS', it then leaves the random numbers that follow alone, the first time as well.
    """
    monkeypatch.setattr("vistok.losses.perceptual._untrained", lambda net: copy.deepcopy(untrained_lpips(net)))


@functools.cache
def untrained_lpips(net: str) -> nn.Module:
    with torch.device("cpu"), fixed_seed():  # also for a test that builds its own networks on the meta device
        return perceptual._quietly(net, pnet_rand=True).requires_grad_(False)


SMALLER = {  # networks beside the tokenizer, by class: arguments that make them small
    "vistok.losses.BlurPoolDiscriminator": {"channels": 16},
    "vistok.losses.DINODiscriminator": {"model": "vit_tiny_patch16_224", "size": 64},
    "vistok.losses.LayerAlignment": {"layer": "from_latent"},  # of any tokenizer
    "vistok.losses.Teacher": {"model": "test_vit.r160_in1k"},
}
SMALLER_MODELS = {  # of feature losses
    "convnext_small.fb_in1k": "convnext_atto",
    "resnet50": "resnet10t",
    "densenet121": "squeezenet1_1",
}


def shrink_losses(loss: DictConfig, image_size: int) -> None:
    """Make the discriminators, teachers and classifiers of a config's ``loss`` small, in place.

    ``tests/losses/test_recipes.py`` runs all of them in their own sizes, on the meta device.
    """
    for node in loss.values():
        if not isinstance(node, DictConfig):
            continue
        shrink_losses(node, image_size)
        target = node.get("_target_")
        with open_dict(node):
            node.update(SMALLER.get(target, {}))
            if target == "vistok.losses.StyleGAN":
                node.channels = [16] * (image_size.bit_length() - 2)  # at image_size, ..., 4 pixels
            if target == "vistok.losses.FeatureLoss":
                node.model = SMALLER_MODELS.get(node.model, node.model)
                node.size = node.get("size", 224) and min(node.get("size", 224), 64)


@pytest.fixture(name="shrink_losses")
def shrink_losses_fixture(networks_made_once) -> Callable[[DictConfig, int], None]:
    return shrink_losses


def smooth(rng: np.random.Generator, channels: int) -> np.ndarray:
    """A smooth picture (40, 40, channels) uint8."""
    small = rng.integers(0, 256, (5, 5, channels), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(small[..., i]).resize((40, 40))) for i in range(channels)], 2)


def own_images(folder: Path, kind: str, count: int = 8) -> Path:
    """Write images of a kind into a new folder: ``grey``, ``grey 12-bit``, ``dicom``, ``8 bands`` or ``rgba``."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        if kind == "grey":
            Image.fromarray(smooth(rng, 1)[..., 0]).save(folder / f"{i}.jpg")
        elif kind == "grey 12-bit":
            Image.fromarray(smooth(rng, 1)[..., 0].astype(np.uint16) * 16).save(folder / f"{i}.png")
        elif kind == "dicom":
            levels = smooth(rng, 1)[..., 0].astype(np.uint16) * 16
            dicom(folder, levels, f"{i}.dcm", RescaleSlope=1, RescaleIntercept=-1024)
        elif kind == "8 bands":
            bands = smooth(rng, 8).astype(np.uint16) * 30
            tifffile.imwrite(folder / f"{i}.tif", bands, photometric="minisblack", planarconfig="contig")
        else:
            Image.fromarray(smooth(rng, 4)).save(folder / f"{i}.png")
    return folder


def dicom(folder: Path, levels: np.ndarray, name: str = "a.dcm", **tags) -> Path:
    """An uncompressed DICOM file of one or several frames."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = levels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = int(levels.dtype.kind == "i")
    if levels.ndim == 3:
        dataset.NumberOfFrames = len(levels)
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.PixelData = levels.tobytes()
    dataset.save_as(folder / name, enforce_file_format=True)
    return folder / name


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of twelve small pictures, some in a subfolder, and a file that is none."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(12):
        height, width = (40, 56) if i % 2 else (64, 48)
        pixels = np.kron(rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        name = f"more/{i:02d}.jpg" if i % 3 == 0 else f"{i:02d}.png"
        Image.fromarray(pixels).save(root / name)
    (root / "notes.txt").write_text("not an image")
    return root
