"""Figures of heads whose codewords are fixed: bsq with lfq, and fsq."""

import numpy as np
import torch
from figures.drawing import CODEWORD, GREY, LATENT, Figure, Panel
from figures.tables import latents, vectors
from torch import Tensor

from vistok.quantizers import FSQ, BinaryQuantizer


def all_codes(size: int) -> Tensor:
    return torch.arange(size)[None, None, None]


def bsq() -> Figure:
    title = "lfq takes the signs of two channels; bsq those of three at length 1: corners of a cube inside the sphere"
    figure = Figure(350, title)
    left = Panel(figure, (1, 28, 272, 272), reach=1.9)
    head = BinaryQuantizer(2, spherical=False)
    z = latents((1.5, 0.35), (0.25, 1.6), (-0.4, 0.3), (-1.5, -1.45), (0.45, -0.6))
    choice = head.encode(z).codes
    left.line([(-1.9, 0), (1.9, 0)])
    left.line([(0, -1.9), (0, 1.9)])
    ways = {}
    for code, start, end in zip(choice.flatten().tolist(), vectors(z), vectors(head.lookup(choice)), strict=True):
        left.arrow(start, end, GREY, shorten=7)
        left.dot(start, LATENT, radius=5)
        ways[code] = end - start
    for code, corner in enumerate(vectors(head.lookup(all_codes(4)))):
        left.dot(corner, CODEWORD, filled=code in ways)
        beyond(left, corner, ways.get(code, corner), f"{code:02b}")
    left.frame("lfq: signs")

    right = Panel(figure, (287, 28, 272, 272), reach=1.3)
    turn, tilt = np.deg2rad(28), np.deg2rad(20)
    across = np.array([np.cos(turn), np.sin(turn), 0])
    up = np.array([-np.sin(turn) * np.sin(tilt), np.cos(turn) * np.sin(tilt), np.cos(tilt)])
    flat = np.stack([across, up], 1)  # (3, 2)
    head = BinaryQuantizer(3)
    corners = vectors(head.lookup(all_codes(8)))
    right.circle(1)
    for a in range(8):
        for b in range(a):
            if bin(a ^ b).count("1") == 1:
                right.line([corners[a] @ flat, corners[b] @ flat], opacity=0.7)
    z = torch.tensor([(0.35, -0.25, 1.1), (-1.05, -0.2, 0.25), (0.95, 0.1, -0.55)]).T[None, :, None]
    choice = head.encode(z).codes
    ways = {}
    rows = zip(
        choice.flatten().tolist(), vectors(z), vectors(head.compared(z)), vectors(head.lookup(choice)), strict=True
    )
    for code, *points in rows:
        start, unit, end = (point @ flat for point in points)
        right.line([start, unit], LATENT, dash="4 4")
        right.dot(start, LATENT, radius=5)
        right.dot(unit, LATENT, filled=False, radius=5)
        right.arrow(unit, end, GREY, shorten=7)
        ways[code] = end - start
    for code, corner in enumerate(corners @ flat):
        right.dot(corner, CODEWORD, filled=code in ways)
        if code in ways:
            beyond(right, corner, ways[code], f"{code:03b}")
    right.frame("bsq: signs on the sphere")
    figure.legend(
        ("dot", LATENT, "latent"),
        ("ring", LATENT, "at length 1"),
        ("ring", CODEWORD, "codeword"),
        ("dot", CODEWORD, "chosen"),
    )
    return figure


def beyond(panel: Panel, corner: np.ndarray, way: np.ndarray, text: str) -> None:
    """Label of a codeword, on the side away from the arrow that ends there."""
    dx, dy = 24 * way / np.hypot(*way) * (1, -1)
    panel.text(corner, text, CODEWORD, dx, dy, bold=True)


def edges(head: FSQ, channel: int, reach: float) -> list[float]:
    """Values of a channel, between ±reach, at which its level changes."""
    values = torch.linspace(-reach, reach, 4001)
    z = torch.zeros(1, 2, 1, len(values))
    z[:, channel] = values
    level = vectors(head.lookup(head.encode(z).codes))[:, channel]
    return ((values[1:] + values[:-1]) / 2)[torch.from_numpy(np.diff(level) != 0)].tolist()


def fsq() -> Figure:
    title = "Two channels are bounded by tanh and rounded to 5 and 4 levels: 20 codewords on a grid"
    figure = Figure(350, title)
    head = FSQ([5, 4])
    z = latents((2.2, 1.3), (0.9, -0.45), (-0.35, 0.75), (-1.0, -1.6), (-2.4, 0.3), (0.25, 2.3))
    codes = head.encode(z).codes
    chosen = set(codes.flatten().tolist())
    left = Panel(figure, (1, 28, 250, 272), reach=2.75)
    (_, low), (_, high) = left.corners()[[0, 2]]
    for x in edges(head, 0, 2.75):
        left.line([(x, low), (x, high)])
    for y in edges(head, 1, 2.75):
        left.line([(-2.75, y), (2.75, y)])
    for point in vectors(z):
        left.dot(point, LATENT, radius=5)
    left.frame("latents")
    right = Panel(figure, (309, 28, 250, 272), reach=1.25)
    for code, codeword in enumerate(vectors(head.lookup(all_codes(20)))):
        right.dot(codeword, CODEWORD, filled=code in chosen)
    for start, end in zip(vectors(head.compared(z)), vectors(head.lookup(codes)), strict=True):
        right.arrow(start, end, GREY, shorten=6)
        right.dot(start, LATENT, radius=5)
    right.frame("bounded and rounded")
    Panel(figure, (251, 28, 58, 272)).arrow((-0.6, 0), (0.6, 0), GREY, width=3)
    figure.text(280, 152, "tanh")
    figure.legend(
        ("dot", LATENT, "latent"),
        ("ring", CODEWORD, "codeword"),
        ("dot", CODEWORD, "chosen"),
        ("line", GREY, "edge of a level"),
    )
    return figure
