"""Messages about images and codes that a tokenizer cannot take."""

import re
import warnings

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.quantizers import VectorQuantizer

SIZE = {"channels": 8, "multipliers": (1, 2, 2), "num_blocks": 1, "attention": (), "dim": 16}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(CNNEncoder(**SIZE), VectorQuantizer(8, 16), CNNDecoder(**SIZE)).eval()


@pytest.fixture
def images():
    return torch.linspace(-1, 1, 3 * 16 * 8).reshape(1, 3, 16, 8)


def refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("change, message", [
    (lambda x: x[0], "images have the shape (3, 16, 8), not (b, 3, H, W): images[None] is a batch of one image"),
    (lambda x: x[0].permute(1, 2, 0), "images have the shape (16, 8, 3), not (b, 3, H, W): channels come before height "
     "and width, images.permute(2, 0, 1)[None]"),
    (lambda x: x.permute(0, 2, 3, 1), "images have the shape (1, 16, 8, 3), not (b, 3, H, W): channels come before "
     "height and width, images.permute(0, 3, 1, 2)"),
    (lambda x: x[0, 0], "images have the shape (16, 8), not (b, 3, H, W)"),
    (lambda x: x[:, :1], "images have 1 channel, but the tokenizer takes 3: images.expand(-1, 3, -1, -1) repeats grey"),
    (lambda x: x[:, [0, 1, 2, 0]], "images have 4 channels, but the tokenizer takes 3: images[:, :3] has no opacity"),
    (lambda x: x[:, :2], "images have 2 channels, but the tokenizer takes 3"),
    (lambda x: x[:0], "images are empty: their shape is (0, 3, 16, 8)"),
    (lambda x: x[..., :0], "images are empty: their shape is (1, 3, 16, 0)"),
    (lambda x: x.numpy(), "images are a ndarray, not a tensor (b, 3, H, W): vistok.read_image makes one of a file, a "
     "Pillow image or an array"),
    (lambda x: x.int(), "images are int32, not floats in [-1, 1]: images / 127.5 - 1 makes them from 0 to 255"),
    (lambda x: x > 0, "images are bool, not floats in [-1, 1]"),
    (lambda x: x.to("meta"), "images are on meta, but the tokenizer is on cpu: images.to('cpu')"),
])  # fmt: skip
def test_forms_of_images(tokenizer, images, change, message):
    for call in (tokenizer.tokenize, tokenizer.reconstruct, tokenizer.encode, tokenizer):
        refused(lambda call=call: call(change(images)), message)


def test_images_in_tiles_are_checked_too(tokenizer, images):
    refused(lambda: tokenizer.tokenize(images[0], tile=8), "images have the shape (3, 16, 8), not (b, 3, H, W): "
            "images[None] is a batch of one image")  # fmt: skip


@pytest.mark.parametrize("change, message", [
    (lambda x: x * 127.5 + 127.5, "images have values from 0 to 255, but a tokenizer takes [-1, 1]: images / 127.5 - 1 "
     "for values from 0 to 255"),
    (lambda x: x * 2.25 + 0.25, "images have values from -2 to 2.5, but a tokenizer takes [-1, 1]: a normalisation by "
     "mean and standard deviation has to be undone, and a reconstruction clamped"),
    (lambda x: x.where(x < 0.5, torch.nan), "images hold NaN or infinite values"),
    (lambda x: x.where(x < 0.5, -torch.inf), "images hold NaN or infinite values"),
])  # fmt: skip
def test_ranges_of_images(tokenizer, images, change, message):
    for call in (tokenizer.tokenize, tokenizer.reconstruct):
        refused(lambda call=call: call(change(images)), message)
    tokenizer(change(images))  # a training step reads no values: it would wait for the GPU


def test_images_that_may_be_in_0_to_1(tokenizer, images):
    message = r"values from 0 to 1, and a tokenizer takes \[-1, 1\]: use images \* 2 - 1 if they are in \[0, 1\]"
    for call in (tokenizer.tokenize, tokenizer.reconstruct):
        with pytest.warns(UserWarning, match=message) as caught:
            call((images + 1) / 2)
        assert [warning.filename for warning in caught] == [__file__]  # Python shows a line's warning once


@pytest.mark.parametrize("change", [
    lambda x: x, lambda x: 0 * x, lambda x: 0 * x + 1, lambda x: x.double(), lambda x: x.half(), lambda x: x.bfloat16(),
    lambda x: 1.4 * x,  # a bicubic enlargement passes the ends
    lambda x: (x + 2) / 3,  # bright
])  # fmt: skip
def test_images_that_are_taken(tokenizer, images, change):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes = tokenizer.tokenize(change(images))
    assert codes.shape == (1, 1, 4, 2)


@pytest.mark.parametrize("change, message", [
    (lambda c: c[0], "codes have the shape (1, 4, 2), not (b, 1, h, w) (codes[:, None] adds the axis of codebooks)"),
    (lambda c: c[None], "codes have the shape (1, 1, 1, 4, 2), not (b, 1, h, w)"),
    (lambda c: c.expand(-1, 2, -1, -1), "codes have the shape (1, 2, 4, 2), not (b, 1, h, w)"),
    (lambda c: c.float(), "codes are float32, not integers"),
    (lambda c: c - 8, "codes hold -8, but codebook 0 has the codes 0 to 7"),
    (lambda c: c + 8, "codes hold 8, but codebook 0 has the codes 0 to 7"),
    (lambda c: c.flatten(2)[:, :, None], "codes have 1x8 positions, but images of 16x8 have 4x2"),
    (lambda c: c.to("meta"), "codes are on meta, but the tokenizer is on cpu: codes.to('cpu')"),
])  # fmt: skip
def test_codes(tokenizer, change, message):
    codes = torch.zeros(1, 1, 4, 2, dtype=torch.int64)
    refused(lambda: tokenizer.detokenize(change(codes), (16, 8)), message)
    assert tokenizer.detokenize(codes.numpy().astype(np.uint16), (16, 8)).shape == (1, 3, 16, 8)


@pytest.mark.parametrize("size, message", [
    (16, "size=16 is one number, not (H, W) in pixels: size=(16, 16) for square images"),
    ((16,), "size=(16,) is not (H, W), two positive integers in pixels"),
    ((16.0, 8), "size=(16.0, 8) is not (H, W), two positive integers in pixels"),
    ((0, 8), "size=(0, 8) is not (H, W), two positive integers in pixels"),
    ("16x8", "size='16x8' is not (H, W), two positive integers in pixels"),
])  # fmt: skip
def test_sizes(tokenizer, size, message):
    codes = torch.zeros(1, 1, 4, 2, dtype=torch.int64)
    refused(lambda: tokenizer.detokenize(codes, size), message)
    refused(lambda: tokenizer.lookup(codes, size), message)
    for pair in ([16, 8], torch.Size((16, 8))):
        assert tokenizer.detokenize(codes, pair).shape == (1, 3, 16, 8)


def test_graphs_have_no_checks(tokenizer, images):
    class Codes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tokenizer = tokenizer.fold()

        def forward(self, images):
            return self.tokenizer.tokenize(images)

    program = torch.export.export(Codes(), (images,))
    assert not [node for node in program.graph.nodes if "aminmax" in str(node.target)]
    assert torch.equal(program.module()(images), tokenizer.tokenize(images))
    assert program.module()(200 * images).shape == (1, 1, 4, 2)


def test_a_step_of_training_reads_no_values(tokenizer, images):
    """Each would wait for a GPU."""
    called = []

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            called.append(operation)
            return operation(*args, **(kwargs or {}))

    reads = {torch.ops.aten.aminmax.default, torch.ops.aten._local_scalar_dense.default}
    with Operations():
        tokenizer(images)
        assert len(called) > 10 and not reads & set(called)
        tokenizer.tokenize(images)
    assert torch.ops.aten.aminmax.default in called
