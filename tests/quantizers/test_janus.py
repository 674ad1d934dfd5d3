"""Janus' head by hand: codes by L2 in the raw table, codewords of unit length."""

import copy

import pytest
import torch

from vistok.quantizers import JanusQuantizer


def test_by_hand():
    head = JanusQuantizer(2, 2)
    head.table.data = torch.tensor([[1.0, 1.0], [0.0, 10.0]])
    z = torch.tensor([0.0, 2.0]).reshape(1, 2, 1, 1).requires_grad_()  # nearest by angle is code 1
    quantized = head(z)
    assert quantized.codes.item() == 0
    torch.testing.assert_close(quantized.latent.flatten(), torch.full((2,), 0.5**0.5))
    assert torch.equal(head.lookup(quantized.codes), quantized.latent)
    assert quantized.losses["commitment"].item() == 1  # of the raw codeword, two squares of 1 over two channels
    (gradient,) = torch.autograd.grad(quantized.latent[0, 0].sum(), z)
    assert gradient.flatten().tolist() == [1, 0]


def test_for_inference_is_its_own():
    head = JanusQuantizer(16, 4)
    inference, table = head.for_inference(), copy.deepcopy(head.table.data)
    head.table.data.zero_()
    assert torch.equal(inference.table, table) and not inference.table.requires_grad
    with pytest.raises(ValueError, match="no single table gives both"):
        head.fold()
