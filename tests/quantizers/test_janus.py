"""Janus' head by hand: codes by L2 in the raw table, codewords of unit length."""

import copy

import torch

from vistok.quantizers import JanusQuantizer


def test_by_hand():
    head = JanusQuantizer(2, 2)
    head.codewords.data = torch.tensor([[1.0, 1.0], [0.0, 10.0]])
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
    inference, table = head.for_inference(), copy.deepcopy(head.codewords.data)
    head.codewords.data.zero_()
    assert torch.equal(inference.codewords, table) and not inference.codewords.requires_grad
    assert torch.equal(inference.table(0).search, table)
    torch.testing.assert_close(inference.table(0).values, torch.nn.functional.normalize(table))
