"""Folders of weights, and weights in several files with an index."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vistok.formats.weight_files import other_kinds, part_of, read_weights, weights_in
from vistok.untrusted.torch_files import read_tensors

NAMES = ("vq.encoder.a", "vq.encoder.b", "lm.c")
FILES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path):
    """``folder("a.ckpt", "sub/b.pt", ...)``: a folder with these files, empty."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("")
        return tmp_path

    return make


@pytest.mark.parametrize("names, found", [
    (("config.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"), 1),
    (("diffusion_pytorch_model.bin",), 0),
    (("pytorch_model.bin", "config.json", "training_args.bin", "optimizer.pt", "rng_state_0.pth", "scheduler.pt"), 0),
    (("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"), 1),
    (("diffusion_pytorch_model.fp16.safetensors",), 0),
    (("vq_ds16_c2i.pt", "README.md"), 0),
    (("epoch=49-step=250000.ckpt", "last.ckpt"), 1),
    (("vq.safetensors", "vq.ckpt"), 0),
    ((*FILES, "model.safetensors.index.json", "config.json"), 2),
    (("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"), 1),
    (("model.fp16.safetensors.index.json", "model.safetensors.index.json"), 1),
    (("checkpoints/last.ckpt", "configs/model.yaml"), 0),
    (("README.md", ".hidden.ckpt"), None),
    (("config.yaml", "checkpoints/last.ckpt"), None),  # an unfinished run of vistok
    ((), None),
])  # fmt: skip
def test_the_weights_in_a_folder(folder, names, found):
    path = folder(*names)
    assert weights_in(path) == (None if found is None else path / names[found])


def test_several_that_may_be_meant(folder):
    with pytest.raises(ValueError, match=r"several files of weights: name one of a.ckpt, b.ckpt"):
        weights_in(folder("a.ckpt", "b.ckpt"))


def test_folders_of_pipelines_and_of_deepspeed(folder):
    path = folder("vqvae/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors")
    assert weights_in(path) is None
    parts = {"_class_name": "P", "unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "VQModel"]}
    (path / "model_index.json").write_text(json.dumps(parts))
    assert weights_in(path) == path / "vqvae/diffusion_pytorch_model.safetensors"
    (path / "model_index.json").unlink()
    folder("global_step7/mp_rank_00_model_states.pt", "global_step7/zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (path / "latest").write_text("global_step7\n")
    assert weights_in(path) == path / "global_step7/mp_rank_00_model_states.pt"
    (path / "latest").write_text("../elsewhere")
    assert weights_in(path) is None


def test_what_a_folder_has_instead(folder):
    path = folder("README.md")
    assert other_kinds(path) == ""
    (path / "flax_model.msgpack").write_bytes(b"\x81\xa6params\x81\xa7encoder")
    assert "flax_model.msgpack is msgpack, as flax writes" in other_kinds(path)
    assert "checkpoint of Orbax" in other_kinds(folder("_METADATA"))


@pytest.fixture
def sharded(tmp_path):
    """``sharded(save, **changes)``: three tensors in two files; the index, with changes of what it says."""

    def make(save=save_file, suffix="safetensors", **changes):
        tensors = {name: torch.full((2,), float(i)) for i, name in enumerate(NAMES)}
        files = [file.replace("safetensors", suffix) for file in FILES]
        save({name: tensors[name] for name in NAMES[:1]}, tmp_path / files[0])
        save({name: tensors[name] for name in NAMES[1:]}, tmp_path / files[1])
        places = dict(zip(NAMES, (files[0], files[1], files[1]), strict=True))
        index = tmp_path / f"model.{suffix}.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": places} | changes))
        return index

    return make


@pytest.mark.parametrize("save, suffix", [(save_file, "safetensors"), (torch.save, "bin")])
def test_files_that_an_index_joins(sharded, save, suffix):
    tree = read_weights(sharded(save, suffix)).tree
    assert {name: tensor[0].item() for name, tensor in tree.items()} == {name: i for i, name in enumerate(NAMES)}


def test_only_the_needed_files_are_read(sharded):
    index = sharded()
    (index.parent / FILES[1]).unlink()
    with pytest.raises(ValueError, match=rf"names 2 files, but {FILES[1]} is not there: download it too"):
        read_weights(index)
    assert [*read_weights(index, lambda names: {NAMES[0]}).tree] == [NAMES[0]]


@pytest.mark.parametrize("changes, message", [
    ({"weight_map": {}}, "is not an index of weights"),
    ({"weight_map": ["a"]}, "is not an index of weights"),
    ({"weight_map": {"a": 3}}, "is not an index of weights"),
    ({"weight_map": {"a": "../x.safetensors"}}, r"names '\.\./x.safetensors', which is no file beside it"),
    ({"weight_map": {"a": "/etc/passwd"}}, "names '/etc/passwd', which is no file beside it"),
    ({"weight_map": {"a": "C:\\x.bin"}}, "which is no file beside it"),
    ({"weight_map": {str(i): f"{i}.bin" for i in range(2_000)}}, "names 2,000 files, more than 1,000"),
    ({"weight_map": {"other": FILES[0]}}, f"says that {FILES[0]} has other, which it has not"),
])  # fmt: skip
def test_an_index_that_is_wrong(sharded, changes, message):
    index = sharded(**changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(index)
    assert str(index) in str(caught.value) and len(str(caught.value)) < 1_000


def test_one_of_several_files(sharded):
    assert part_of(sharded().parent / FILES[0]) == "; it is one of 2 parts: give their folder or index"
    assert part_of(sharded()) == "" and [*read_tensors(sharded().parent / FILES[0]).tree] == [NAMES[0]]
