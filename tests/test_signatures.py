"""Signatures read from source: the same as those of what is imported."""

import inspect
import pkgutil
import re
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from vistok import speed
from vistok.backbones import vit
from vistok.configuration import fits, kind_of
from vistok.losses import adversarial, feature_loss, patchgan, stylegan
from vistok.quantizers import dqvae, vqbridge
from vistok.signatures import signature_of
from vistok.training import schedules

ROOT = Path(__file__).parent.parent
TARGETS = sorted(
    {
        target
        for path in (ROOT / "configs").rglob("*.yaml")
        for target in re.findall(r"_target_: *\"?([\w.]+)", path.read_text())
    }
    | {"vistok.training.module.LitTokenizer", "vistok.speed.prepare", "pytorch_lightning.Trainer", "torch.optim.SGD"}
)
OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@pytest.mark.parametrize("target", [target for target in TARGETS if not target.startswith("datetime.")])
def test_they_are_those_of_what_is_imported(target):
    named = pkgutil.resolve_name(":".join(target.rsplit(".", 1)))
    called = named.__init__ if isinstance(named, type) else named
    parameters = inspect.signature(called).parameters
    arguments = {name for name, parameter in parameters.items() if parameter.kind not in OPEN} - {"self"}
    found = signature_of(target)
    assert set(found.hints) == arguments or "WandbLogger" in target  # its decorator hides them
    assert found.closed <= all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    try:
        hints = get_type_hints(called)
    except NameError:  # of what is imported for type checkers only
        hints = {}
    for name, hint in hints.items():
        if name in arguments:
            read = found.hints[name]
            kinds = set(
                kind_of(hint).replace("device", "Any").split(" or ")
            )  # typing keeps one order of a union for all
            assert set(kind_of(read).split(" or ")) == kinds, name
            for value in (1, 1.5, "a", None, True, [1], ["a"], [1, 2], {"a": 1}):
                assert fits(value, read) == fits(value, hint) or "device" in kind_of(hint), (name, value)


NOTHING = ["nothing.at.all", "vistok.nothing", "vistok.quantizers.Nothing", "math.sqrt", "x", ""]


CHOICES = {  # arguments that take one of several words, and where those are told apart
    ("vistok.quantizers.VQBridge", "size"): vqbridge.SIZES,
    ("vistok.quantizers.VQBridge", "variant"): vqbridge.VARIANTS,
    ("vistok.quantizers.DynamicQuantizer", "budget"): dqvae.BUDGETS,
    ("vistok.backbones.ViTEncoder", "positions"): vit.POSITIONS,
    ("vistok.backbones.ViTDecoder", "activation"): vit.ACTIVATIONS,
    ("vistok.losses.Adversary", "loss"): adversarial.DISCRIMINATOR_LOSSES,
    ("vistok.losses.Adversary", "generator_loss"): adversarial.GENERATOR_LOSSES,
    ("vistok.losses.FeatureLoss", "library"): feature_loss.LIBRARIES,
    ("vistok.losses.PatchGAN", "norm"): patchgan.NORMS,
    ("vistok.losses.StyleGAN", "variant"): stylegan.VARIANTS,
    ("vistok.training.schedules.Schedule", "decay"): schedules.DECAYS,
    ("vistok.speed.prepare", "compile"): speed.MODES,
}


@pytest.mark.parametrize("target, name", CHOICES)
def test_annotations_name_all_choices(target, name):
    hint = signature_of(target).hints[name]
    (choices,) = [get_args(one) for one in (hint, *get_args(hint)) if get_origin(one) is Literal]
    assert set(choices) == set(CHOICES[target, name])


@pytest.mark.parametrize("target", NOTHING)
def test_what_is_not_there_has_none(target):
    assert signature_of(target) is None


def test_a_stranger_s_module(tmp_path, monkeypatch):
    """Neither it nor what it imports is run."""
    (tmp_path / "strange_part.py").write_text(
        "import not_installed\n"
        "from strange_base import *\n"
        "from strange_base import Size as S\n"
        "class Head(Base):\n    dim = 1\n"
        "def make(size: S, *, names: 'list[str] | None' = None, other: not_installed.Thing = None): ...\n"
        "@not_installed.wrapped\ndef hidden(size: S): ...\n"
        "1 / 0\n"
    )
    (tmp_path / "strange_base.py").write_text(
        "from typing import Literal, Optional\n"
        "Size = Optional[int]\n"
        "class Base:\n    def __init__(self, size: Size, kind: Literal['a', 'b'] = 'a', **more: float): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    head, made = signature_of("strange_part.Head"), signature_of("strange_part.make")
    assert kind_of(head.hints["size"]) == "a whole number or null" and kind_of(head.hints["kind"]) == "a or b"
    assert not head.closed and made.closed and not signature_of("strange_part.hidden").closed
    assert kind_of(made.hints["names"]) == "a list, each text or null" and kind_of(made.hints["size"]) == kind_of(
        int | None
    )
    assert fits(5, made.hints["other"])
