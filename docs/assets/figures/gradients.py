"""Figures of gradient estimators and of sf_diveq."""

from collections.abc import Callable

import torch
from figures.drawing import CODEWORD, GRADIENT, GREY, LATENT, WIDTH, Figure, Panel
from figures.tables import spread, with_codewords
from torch import Tensor

from vistok.quantizers import SFDiVeQ
from vistok.quantizers.estimators import CodewordGradient, DiVeQ, RotationTrick, StraightThrough


def estimators() -> Figure:
    title = (
        "Which way the decoder's gradient moves latent and codeword, by straight-through, rotation, DiVeQ and codeword"
    )
    figure = Figure(500, title)
    panels: list[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = [
        ("straight_through", StraightThrough()),
        ("rotation", RotationTrick()),
        ("diveq", DiVeQ(std=0)),
        ("codeword", CodewordGradient()),
    ]
    wanted = torch.tensor([0.55, 0.1])  # which way the decoder wants its input to move
    for i, (name, estimator) in enumerate(panels):
        z = torch.tensor([1.0, 0.25])[None, :, None, None].requires_grad_()
        codeword = torch.tensor([0.62, 1.15])[None, :, None, None].requires_grad_()
        value = estimator(z, codeword)
        (value[0, :, 0, 0] @ -wanted).backward()
        panel = Panel(figure, (1 + 286 * (i % 2), 28 + 232 * (i // 2), 272, 190), centre=(0.86, 0.57), reach=1.12)
        start, end = (point.detach()[0, :, 0, 0].numpy() for point in (z, codeword))
        for point in (start, end):
            panel.line([(0, 0), point], opacity=0.5)
        panel.line([start, end], dash="4 4")
        panel.arrow(value.detach()[0, :, 0, 0].numpy(), end + wanted.numpy(), GREY, width=2.5)
        for point, place in ((z, start), (codeword, end)):
            if point.grad is not None and point.grad.norm() > 1e-6:
                panel.arrow(place, place - point.grad[0, :, 0, 0].numpy(), GRADIENT, width=3)
        panel.dot(start, LATENT)
        panel.dot(end, CODEWORD)
        panel.frame(name)
    figure.legend(
        ("dot", LATENT, "latent"),
        ("dot", CODEWORD, "codeword"),
        ("arrow", GREY, "decoder's gradient"),
        ("arrow", GRADIENT, "passed on"),
    )
    return figure


def sf_diveq() -> Figure:
    title = "In training each latent moves to the nearest of random points on the curve through all codewords"
    figure = Figure(340, title)
    head = SFDiVeQ(9, 2)
    codewords = spread(9, (2.4, 1.1), seed=3)
    codewords = codewords[codewords[:, 0].argsort()]
    with_codewords(head, codewords)
    panel = Panel(figure, (1, 1, WIDTH - 2, 298), reach=2.8)
    panel.line(codewords.numpy(), CODEWORD, 2)
    z = spread(8, (2.3, 1.2), seed=11).T[None, :, None]
    torch.manual_seed(2)
    moved = head(z).latent.detach()
    for start, end in zip(z[0, :, 0].T.numpy(), moved[0, :, 0].T.numpy(), strict=True):
        panel.arrow(start, end, GREY)
        panel.dot(start, LATENT, radius=5)
    for codeword in codewords.numpy():
        panel.dot(codeword, CODEWORD, filled=False)
    panel.frame()
    figure.legend(
        ("dot", LATENT, "latent"),
        ("ring", CODEWORD, "codeword"),
        ("line", CODEWORD, "curve"),
        ("arrow", GREY, "value in training"),
    )
    return figure
