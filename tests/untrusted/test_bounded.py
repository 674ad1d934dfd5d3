"""Files of strangers ask for nothing that they do not have."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vistok.untrusted import bounded_network
from vistok.untrusted.bounded_json import one_line, parse_json, read_json, read_object, short
from vistok.untrusted.bounded_network import Beyond, network_of
from vistok.untrusted.tensor_files import read_safetensors


@pytest.mark.parametrize("content, message", [
    (b"[" * 100_000, "is not JSON: maximum recursion depth"),
    (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
    (b"9" * 5_000, "is not JSON: Exceeds the limit"),
    (b'{"a": 1, "a": 2}', "an object has 'a' twice"),
    (b"\xff{}", "is not JSON: 'utf-8' codec"),
    ("{}".encode("utf-16"), "is not JSON"),
    (b"", "is not JSON"),
    (b'{"a": 1', "is not JSON"),
])  # fmt: skip
def test_json_that_is_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_json_that_is_read(tmp_path):
    path = tmp_path / "config.json"
    content = {"a": [1, -2.5, None, True, "text\x1b"], "deep": [[[{}]]], "large": 10**30}
    path.write_text(json.dumps(content))
    assert read_json(path) == read_object(path) == content
    assert parse_json(b"[" * 64 + b"]" * 64, "it")
    path.write_text("[]")
    with pytest.raises(ValueError, match="config.json holds a list, not names"):
        read_object(path)
    with pytest.raises(ValueError, match="has 2 bytes of JSON, more than 1"):
        read_json(path, 1)
    with pytest.raises(ValueError, match="there is no .*none.json"):
        read_json(tmp_path / "none.json")


def test_what_is_quoted_is_short_and_in_one_line():
    assert len(short("a" * 10**6)) == 80 and short("a\n") == r"'a\n'"
    assert len(short([["x" * 10**6] * 10**5])) < 1_000 and len(short(10**4000)) < 100
    assert one_line("a\n  b\x1b[2J") == "a b\\x1b[2J" and len(one_line("a" * 10**6)) == 403


def test_safetensors_that_are_none(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.arange(2**20), "b": torch.ones(3).half()}, path, {"told": "text"})
    tensors, metadata = read_safetensors(path)
    assert torch.equal(tensors["a"], torch.arange(2**20)) and metadata == {"told": "text"}
    for content in (b"", b"\xff" * 8, b"\xff" * 100, path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read_safetensors(path)


class Tower(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.register_buffer("powers", 2 ** torch.arange(width), persistent=False)


def test_a_network_is_compared_before_anything_is_allocated(allocated):
    good = Tower(3, 4)
    made = network_of(good.state_dict(), lambda: Tower(3, 4))
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), good.parameters(), strict=True))
    assert torch.equal(made.powers, good.powers)  # computed, and in no file
    for depth, width, message in [
        (10**9, 4, "a network of far more than the 6 tensors"),
        (3, 10**9, "a tensor of 1,000,000,000 x 1,000,000,000 values"),
        (3, 0, "a tensor of 0 x 0 values"),
        (2, 4, "Unexpected key 'layers.2.bias'; Unexpected key 'layers.2.weight'"),
        (4, 4, "Missing key 'layers.3.bias'; Missing key 'layers.3.weight'"),
        (3, 5, r"'layers.0.bias' has the sizes \[4\], not \[5\]"),
    ]:

        def refused(depth=depth, width=width, message=message):
            with pytest.raises(Beyond, match=message):
                network_of(good.state_dict(), lambda: Tower(depth, width))

        assert allocated(refused) < 10_000
    whole = {name: tensor.long() for name, tensor in good.state_dict().items()}
    with pytest.raises(Beyond, match="'layers.0.bias' is torch.int64, not torch.float32; .* and 2 more"):
        network_of(whole, lambda: Tower(3, 4))


@pytest.mark.parametrize("calls", range(40))
def test_a_stop_at_any_call_leaves_gradients_on(monkeypatch, calls):
    """Initialisation turns them off and on again by calls of torch, at which the construction may stop."""
    monkeypatch.setattr(bounded_network, "MAX_CALLS", calls)
    monkeypatch.setattr(bounded_network, "MAX_CALLS_FOR_EACH", 0)
    with pytest.raises(Beyond, match="a network of far more than"):
        network_of({"a": torch.zeros(9)}, lambda: nn.Sequential(*(nn.MultiheadAttention(2, 1) for _ in range(9))))
    assert torch.is_grad_enabled()


def test_tensors_that_share_a_storage():
    storage = torch.ones(2**19)
    bounded_network.refuse_shared({"a": storage, "tied": storage})
    with pytest.raises(ValueError, match="2,097,152 bytes would become 20,971,520"):
        bounded_network.refuse_shared({str(i): storage for i in range(10)})
