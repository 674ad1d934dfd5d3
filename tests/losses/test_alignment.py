"""The representation loss against the authors' values and by hand."""

import math

import pytest
import torch

from vistok.losses import info_nce


def test_fqgan(golden, close):
    values = golden("heads", "fqgan_infonce")
    predicted = values["pred"].requires_grad_()
    loss = info_nce(predicted[:, 0], values["teacher"][:, 0])  # only the class token counts
    close(loss, values["loss.infonce"])
    (gradient,) = torch.autograd.grad(loss, predicted)
    close(gradient, values["grad.pred"])


def test_by_hand():
    teacher = torch.eye(2)
    assert info_nce(torch.ones(2, 2), teacher).item() == pytest.approx(math.log(2))
    # each cosine is 1 with its own and 0 with the other
    assert info_nce(3 * teacher, teacher).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_the_teacher_gets_no_gradient():
    predicted, teacher = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    info_nce(predicted, teacher).backward()
    assert teacher.grad is None and predicted.grad is not None
