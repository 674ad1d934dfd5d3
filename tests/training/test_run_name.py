"""Names of runs, sweeps and their jobs."""

import re

import pytest
from omegaconf import OmegaConf

from vistok.training.run_name import LONGEST, job_name, run_name, shared_keys, sweep_name


def named(*overrides, name=None, debug=False, **data):
    config = {"run": {"name": name, "debug": debug}, "data": {"_target_": "vistok.data.sample"} | data}
    return run_name(OmegaConf.create(config), overrides)


@pytest.mark.parametrize("overrides, name", [
    ([], "sample"),
    (["optimizer.lr=1e-3", "quantizer=simvq"], "sample-simvq-lr0.001"),
    (["quantizer=simvq", "optimizer.lr=0.001"], "sample-simvq-lr0.001"),
    (["optim.updates=20", "log.every=2", "trainer=gpu", "run.resume=auto", "data.num_workers=4"], "sample"),
    (["optim.clip=null", "+data.flip=true", "schedule.decay=linear"], "sample-flip-no_clip-schedule.decay_linear"),
    (["quantizer=fq", "quantizer@quantizer.head=simvq", "loss.loss_weights.l2=3"],
     "sample-fq-head_simvq-loss_weights.l2_3"),
    (["optimizer.betas=[0.5,0.9]", "~optimizer.fused"], "sample-betas_0.5_0.9-no_fused"),
])  # fmt: skip
def test_overrides(overrides, name):
    assert named(*overrides) == name


@pytest.mark.parametrize("data, name", [
    ({"root": "photos"}, "photos"),
    ({"root": "/data/imagenet/train"}, "imagenet-train"),
    ({"root": "list.csv"}, "list"),
    ({"root": "hf:user/some-set"}, "some-set"),
    ({"root": "/x/caf\u00e9 1"}, "cafe"),
    ({"urls": "/data/imagenet-train-{000000..000127}.tar"}, "imagenet-train"),
    ({"urls": ["/data/clic-01.tar", "/data/b.tar"]}, "clic"),
])  # fmt: skip
def test_data(data, name):
    assert named("data=folder", **data) == name


def test_names_that_are_given():
    assert named("run.name=mine", "quantizer=vq", name="mine") == "mine"
    recipe = named(
        "experiment=recipe", "data.root=/a/photos", "model.codebook_size=64", name="recipe", root="/a/photos"
    )
    assert recipe == "recipe-photos-codebook_size64"
    assert named("trainer=debug", debug=True) == "sample-debug"


def test_what_a_name_leaves_out_is_in_its_hash():
    long = [f"backbone.encoder.argument_{i}={i}" for i in range(9)]
    names = [named(*long), named(*long[:-1], "backbone.encoder.argument_8=0")]
    names += [named("model.init=/a/x.safetensors"), named("model.init=/b/x.safetensors")]
    names += [named("+a.b={c: 1}"), named('+a.b="c:1"'), named('+a.b="\u65e5"'), named('+a.b="\u672c"')]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{6}", name) and len(name) <= LONGEST for name in names)
    assert named(*reversed(long)) == names[0]


def test_sweeps():
    words = ["-m", "data=folder", "data.root=photos", "quantizer=simvq,vq", "model.codebook_size=64", "run.seed=0,1"]
    assert sweep_name(words) == "photos-codebook_size64-sweep"
    shared = shared_keys(words)
    assert sorted(shared) == ["data", "data.root", "model.codebook_size"]
    assert job_name([*words[1:3], "quantizer=vq", "model.codebook_size=64", "run.seed=1"], shared) == "vq-seed1"
    assert job_name(words[1:3], shared) == "only" and sweep_name(["-m", "run.name=mine"]) == "mine-sweep"
