"""Containers of checkpoints: where the tokenizer is, which weights are averages, and what is refused."""

from collections import OrderedDict

import pytest
import torch

from vistok.formats.containers import MAX_DEPTH, NoTensors, unwrap

MARKS = [("encoder.conv_in.weight", "quantize.embedding.weight"), ("encoder.positions",)]
NAMES = ("encoder.conv_in.weight", "encoder.conv_in.bias", "quantize.embedding.weight", "decoder.conv_out.weight")
OTHER = {"tok_emb.weight": torch.zeros(4, 4), "blocks.0.mlp.weight": torch.zeros(2)}


def own(value=0.0, prefix=""):
    return {prefix + name: torch.full((2,), value + i) for i, name in enumerate(NAMES)}


def without_dots(state, prefix=""):
    return {f"model_ema.{prefix}{name.replace('.', '')}": tensor + 100 for name, tensor in state.items()}


def opened(tree, weights="ema", part=None):
    found = unwrap(tree, MARKS, weights, part)
    return {name: tensor[0].item() for name, tensor in found.tensors.items()}, found


RAW = {name: float(i) for i, name in enumerate(NAMES)}
MEAN = {name: 100.0 + i for i, name in enumerate(NAMES)}
PREFIXES = (
    *("first_stage_model.", "generator.", "vqvae.", "model.", "module.", "_orig_mod.", "module._orig_mod.", "net."),
    *("model.first_stage_model.module.", "tokenizer.vq_model.", "gen_vision_model.", "anything_else.0."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("module",), ("trainer", "vae_local")])
def test_any_prefix_in_any_dicts(prefix, keys):
    tree = own(prefix=prefix)
    if prefix != "_orig_mod.":  # which stands before every name
        tree |= {f"transformer.{name}": tensor for name, tensor in OTHER.items()}
    for key in reversed(keys):
        tree = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, key: tree, "args": [1, 2]}
    found, unwrapped = opened(tree)
    assert found == RAW and unwrapped.averages is None
    assert unwrapped.prefix == "".join(f"{key}." for key in keys) + prefix.replace("_orig_mod.", "")


def test_names_that_compilation_and_sharding_insert():
    tree = {name.replace("encoder.", "encoder._orig_mod._fsdp_wrapped_module."): value for name, value in own().items()}
    assert opened(tree)[0] == RAW
    with pytest.raises(ValueError, match="two of its tensors are called encoder.conv_in.weight"):
        opened(own() | tree)


@pytest.mark.parametrize("raw, mean", [
    ("model", "model_ema"), ("model", "ema"), ("model", "ema_model"), ("params", "params_ema"), ("net", "net_ema"),
    ("state_dict", "state_dict_ema"), ("netG", "netG_ema"), ("online_model", "ema_model"), ("generator", "g_ema"),
    ("weights", "averaged_model"), ("current_model_state", "state_dict"), ("params", "ema.0_9999"),
])  # fmt: skip
def test_the_averaged_of_two_copies(raw, mean):
    for tree in ({raw: own(), mean: own(100.0)}, {mean: own(100.0), raw: own()},
                 own(prefix=f"{raw}.") | own(100.0, f"{mean}.")):  # fmt: skip
        found, unwrapped = opened(tree)
        assert found == MEAN and unwrapped.averages == f"{mean}." and unwrapped.others == (f"{raw}.",)
        assert opened(tree, "raw")[0] == RAW
        assert opened(tree, "raw", part=mean)[0] == MEAN
    if mean != "state_dict":  # which is raw by itself
        with pytest.raises(ValueError, match=f"weights='raw', but it has only {mean}"):
            opened({mean: own()}, "raw")


def test_lightnings_weights_are_averages_only_beside_the_current_ones():
    assert opened({"state_dict": own()}, "raw")[0] == RAW


@pytest.mark.parametrize("tree, source", [
    ({"state_dict": own() | without_dots(own())}, "state_dict.model_ema."),
    ({"state_dict": own(prefix="net.") | without_dots(own(), "net")}, "state_dict.model_ema."),
    ({"state_dict": own(prefix="net.") | without_dots(own())}, "state_dict.model_ema."),
    ({"first_stage_model": own() | without_dots(own())}, "first_stage_model.model_ema."),
])  # fmt: skip
def test_averages_without_dots(tree, source):
    found, unwrapped = opened(tree)
    assert found == MEAN and unwrapped.averages == source
    assert opened(tree, "raw")[0] == RAW


def test_averages_of_another_part_are_not_the_tokenizers():
    """Latent diffusion averages its network; its first stage is raw, and has no average."""
    shadow = {"model_ema.diffusion_modelout0weight": torch.ones(2), "model_ema.decay": torch.ones(())}
    found, unwrapped = opened({"state_dict": own(prefix="first_stage_model.") | shadow})
    assert found == RAW and unwrapped.averages is None


def test_averages_of_parameters_alone():
    """Buffers, such as an EMA codebook, have no average: the others are taken, not the raw ones in silence."""
    mean = own(100.0)
    del mean["quantize.embedding.weight"]
    expected = MEAN | {"quantize.embedding.weight": RAW["quantize.embedding.weight"]}
    for tree in ({"model": own(), "ema": mean}, {"model": own(), "ema": {f"module.{k}": v for k, v in mean.items()}},
                 own() | {"ema": mean}):  # fmt: skip
        assert opened(tree)[0] == expected
        assert opened(tree, "raw")[0] == RAW


def test_averages_without_names():
    tree = {"model": own(), "ema": {"decay": 0.9, "shadow_params": [*own(100.0).values()]}}
    with pytest.raises(ValueError, match="ema.shadow_params, have no names: give weights='raw'"):
        opened(tree)
    assert opened(tree, "raw")[0] == RAW


def test_averages_of_other_sizes():
    mean = own(100.0) | {"encoder.conv_in.bias": torch.ones(3)}
    del mean["quantize.embedding.weight"]
    with pytest.raises(ValueError, match="the average of encoder.conv_in.bias has other sizes"):
        opened({"model": own(), "ema": mean})
    with pytest.raises(ValueError, match="model_ema.nothing is the average of no tensor of it"):
        opened({"model": own() | {"model_ema.nothing": torch.ones(1)}})


def test_several_tokenizers():
    tree = own(prefix="teacher.") | own(7.0, prefix="student.")
    with pytest.raises(ValueError, match=r"several tokenizers, teacher, student: give config=\{'part': ...\}"):
        opened(tree)
    assert opened(tree, part="student")[0] == {name: value + 7 for name, value in RAW.items()}
    assert opened(tree, part="teacher.")[0] == RAW
    with pytest.raises(ValueError, match="part='pupil' is none of its tokenizers: teacher, student"):
        opened(tree, part="pupil")
    both = {"state_dict": (once := own()), "model": once}  # one and the same
    assert opened(both)[0] == RAW
    conditioned = own(7.0, prefix="cond_stage_model.") | own(prefix="first_stage_model.")
    assert opened(conditioned)[0] == RAW
    assert opened(own(prefix="cond_stage_model."))[0] == RAW  # better than nothing


def test_a_copy_beside_the_names_is_not_read_with_them():
    found, unwrapped = opened(own() | own(100.0, "ema_model."))
    assert found == MEAN and unwrapped.others == ("",)
    assert opened(own() | own(100.0, "ema_model."), "raw")[0] == RAW


def test_parts_of_the_state_in_dicts_of_their_own():
    tree = {
        "encoder": OrderedDict({"conv_in": {"weight": torch.zeros(2), "bias": torch.ones(2)}}),
        "quantize": {"embedding.weight": torch.full((2,), 2.0)},
        "decoder.conv_out.weight": torch.full((2,), 3.0),
    }
    assert opened(tree)[0] == RAW


def test_what_has_no_tokenizer():
    found, unwrapped = opened({"model": {"fc.weight": torch.ones(1), "fc.bias": torch.ones(1)}, "x": torch.ones(1)})
    assert found == {"fc.weight": 1, "fc.bias": 1}
    for tree, message in (([1], "holds a list"), ({}, "no tensors under any name"), ({"a": {"b": 3}}, "under 'a'")):
        with pytest.raises(NoTensors, match=message):
            opened(tree)


def test_work_is_bounded():
    deep = own()
    for _ in range(MAX_DEPTH):
        deep = {"a": deep}
    assert opened(deep)[0] == RAW
    with pytest.raises(NoTensors):
        opened({"a": deep})
    shared = {str(i): 0 for i in range(1_000)}
    with pytest.raises(ValueError, match="more than 100,000 tensors or 400,000 values"):
        opened({str(i): shared for i in range(1_000)})
    ones = dict.fromkeys(map(str, range(1_000)), torch.ones(1))
    with pytest.raises(ValueError, match="more than 100,000 tensors"):
        opened({str(i): ones for i in range(150)})
    with pytest.raises(NoTensors):
        opened({"x" * 10**6: own()})  # too long a path
