"""Figures of heads with a table of codewords: vq, vq_cosine, vq_ema, ibq and gumbel."""

import numpy as np
import torch
from figures.drawing import CODEWORD, GRADIENT, GREY, LATENT, WIDTH, Figure, Panel, regions
from torch import Tensor

from vistok.quantizers import IBQ, GumbelQuantizer, Quantizer, VectorQuantizer
from vistok.quantizers.gumbel import gumbel_noise


def latents(*points: tuple[float, float]) -> Tensor:
    """A latent (1, 2, 1, n) of these vectors."""
    return torch.tensor(points).T[None, :, None]


def vectors(latent: Tensor) -> np.ndarray:
    """Vectors (n, d) of a latent (1, d, 1, n)."""
    return latent.detach()[0, :, 0].T.numpy()


def spread(n: int, reach: tuple[float, float], seed: int) -> Tensor:
    """Random points (n, 2) within ±reach that keep their distance: each is the farthest of 20 from those before."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.zeros(0, 2)
    for _ in range(n):
        tries = (2 * torch.rand(20, 2, generator=generator) - 1) * torch.tensor(reach)
        best = torch.cdist(tries, points).min(1).values.argmax() if len(points) else torch.tensor(0)
        points = torch.cat([points, tries[best : best + 1]])
    return points


@torch.no_grad()
def with_codewords(head: Quantizer, codewords: Tensor) -> Quantizer:
    head.get_parameter("codewords").copy_(codewords)
    return head


def cells(panel: Panel, head: Quantizer, i: int = 0, chosen: set[int] | None = None) -> None:
    """Regions of a head's i-th codebook, those of chosen codes tinted."""
    table = head.table(i)
    assert table is not None
    search = table.search.double().numpy()
    bias = -(search**2).sum(1) / 2 if table.metric == "l2" else np.zeros(len(search))
    for code, polygon in enumerate(regions(search, bias, panel.corners())):
        if len(polygon):
            panel.polygon(polygon, CODEWORD, 0.14 if chosen and code in chosen else 0)


def choices(
    panel: Panel, z: Tensor, head: Quantizer, dims: slice = slice(None), labels: bool = True, i: int = 0
) -> None:
    """Cells, codewords with their codes, latents and arrows to the codewords that the head chooses."""
    codes = head.encode(z).codes
    chosen, table = set(codes[0, i].flatten().tolist()), head.table(i)
    assert table is not None
    cells(panel, head, i, chosen)
    away = np.tile(np.array([0.8, 0.6]), (len(table.values), 1))  # of labels: opposite to an arrow
    own_codes = codes[0, i].flatten().tolist()
    for code, start, end in zip(own_codes, vectors(z)[:, dims], vectors(head.lookup(codes))[:, dims], strict=True):
        panel.arrow(start, end, GREY, shorten=7)
        panel.dot(start, LATENT, radius=5)
        away[code] = (end - start) / max(np.hypot(*(end - start)), 1e-9)
    for code, codeword in enumerate(table.values.numpy()):
        panel.dot(codeword, CODEWORD, filled=code in chosen)
        if labels:
            dx, dy = 17 * away[code] * (1, -1)
            panel.text(codeword, str(code), CODEWORD if code in chosen else GREY, dx, dy, bold=code in chosen)


LEGEND = (("dot", LATENT, "latent"), ("ring", CODEWORD, "codeword"), ("dot", CODEWORD, "chosen"))


def vq() -> Figure:
    figure = Figure(
        340, "Each latent goes to the nearest of ten numbered codewords; borders lie halfway between codewords"
    )
    head = with_codewords(VectorQuantizer(10, 2), spread(10, (2.4, 1.1), seed=3))
    panel = Panel(figure, (1, 1, WIDTH - 2, 298), reach=2.8)
    choices(panel, spread(7, (2.3, 1.2), seed=8).T[None, :, None], head)
    panel.frame()
    figure.legend(*LEGEND)
    return figure


def vq_cosine() -> Figure:
    title = "Latents are scaled to length 1, and each goes to the nearest of nine codewords on the unit circle"
    figure = Figure(380, title)
    angles = torch.tensor([0.2, 0.95, 1.5, 2.3, 2.9, 3.8, 4.4, 5.0, 5.7])
    head = with_codewords(VectorQuantizer(9, 2, cosine=True), torch.stack([angles.cos(), angles.sin()], 1))
    panel = Panel(figure, (1, 1, WIDTH - 2, 338), reach=2.25)
    z = latents((1.9, 1.05), (0.3, 0.06), (-0.5, 0.95), (-1.75, -0.2), (-0.3, -0.2), (0.95, -1.15))
    codes = head.encode(z).codes
    chosen = set(codes.flatten().tolist())
    cells(panel, head, 0, chosen)
    panel.circle(1)
    for start, end in zip(vectors(z), vectors(head.lookup(codes)), strict=True):
        unit = start / np.hypot(*start)
        panel.line((start, unit), LATENT, dash="4 4")
        panel.dot(unit, LATENT, filled=False, radius=5)
        panel.dot(start, LATENT, radius=5)
        panel.arrow(unit, end, GREY, shorten=7)
    table = head.table(0)
    assert table is not None
    for code, codeword in enumerate(table.values.numpy()):
        panel.dot(codeword, CODEWORD, filled=code in chosen)
    panel.frame()
    figure.legend(LEGEND[0], ("ring", LATENT, "at length 1"), *LEGEND[1:])
    return figure


def vq_ema() -> Figure:
    title = "Codewords move onto the means of the latents that chose them, step by step over 40 updates"
    figure = Figure(340, title)
    torch.manual_seed(0)
    head = VectorQuantizer(8, 2, ema_decay=0.9)
    start = spread(8, (1.7, 1.0), seed=5)
    head.get_buffer("codewords").copy_(start)
    head.get_buffer("ema_sums").copy_(start)
    centres = torch.tensor(
        [(-2.0, 0.8), (-1.9, -0.8), (-0.6, -0.1), (0.7, 1.0), (0.8, -1.0), (2.0, 0.4), (2.1, -0.9), (-0.4, 1.1)]
    )
    panel = Panel(figure, (1, 1, WIDTH - 2, 298), reach=2.8)
    trails = [start.clone()]
    for _ in range(40):
        batch = centres[torch.arange(96) % 8] + 0.18 * torch.randn(96, 2)
        stats = head(batch.T[None, :, None]).stats
        assert stats is not None
        head.update(stats)
        trails.append(head.codebook().clone())
    for point in (centres[torch.arange(96) % 8] + 0.18 * torch.randn(96, 2)).numpy():
        panel.dot(point, LATENT, radius=2)
    for trail in torch.stack(trails, 1).numpy():
        panel.line(trail, CODEWORD, 2)
        panel.dot(trail[0], CODEWORD, filled=False)
        panel.dot(trail[-1], CODEWORD)
    panel.frame()
    figure.legend(LEGEND[0], ("ring", CODEWORD, "codeword at first"), ("dot", CODEWORD, "after 40 updates"))
    return figure


def ibq() -> Figure:
    title = "Left, each latent goes to the codeword of the largest inner product; right, all codewords get a gradient"
    figure = Figure(350, title)
    codewords = torch.tensor(
        [(0.9, 0.3), (0.3, 1.1), (-0.9, 0.75), (-0.55, -0.2), (-0.3, -1.0), (0.8, -0.85), (0.25, 0.2)]
    )
    head = with_codewords(IBQ(7, 2, entropy_temperature=None), codewords)
    left = Panel(figure, (1, 28, 272, 272), reach=1.6)
    choices(left, latents((1.3, 0.55), (0.2, 0.5), (-0.5, 1.3), (-1.2, -0.55), (0.25, -1.1)), head, labels=False)
    left.frame("choice: inner products")
    right = Panel(figure, (287, 28, 272, 272), reach=1.6)
    z = latents((1.3, 1.1))
    quantized = head(z)
    towards = torch.tensor([0.5, -0.85])  # which way the decoder wants its input to move
    (quantized.latent[0, :, 0, 0] @ -towards).backward()
    gradient = head.get_parameter("codewords").grad
    assert gradient is not None
    chosen = int(quantized.codes)
    for code, (codeword, step) in enumerate(zip(codewords.numpy(), -gradient.numpy(), strict=True)):
        right.arrow(codeword, codeword + step * 1.0, GRADIENT, width=2.5)
        right.dot(codeword, CODEWORD, filled=code == chosen)
    right.dot(z[0, :, 0, 0].numpy(), LATENT, radius=5)
    right.frame("gradient: to all codewords")
    figure.legend(*LEGEND, ("arrow", GRADIENT, "gradient"))
    return figure


def gumbel() -> Figure:
    title = "The same noisy scores of eight codes: nearly even at a high temperature, one code at a low one"
    figure = Figure(280, title)
    torch.manual_seed(5)
    head = GumbelQuantizer(8, 2)
    scores = head.logits(latents((1.35, -2.1)))[0, :, 0, 0].detach()
    noisy = scores + gumbel_noise(scores)
    for column, temperature in enumerate((2.0, 0.5, 0.05)):
        left, base = 1 + column * 190, 218
        sample = (noisy / temperature).softmax(0)
        for code in range(8):
            height, x = 170 * float(sample[code]), left + 8 + code * 20.5
            best = code == int(noisy.argmax())
            figure.add(
                "rect", x=x, y=base - height, width=15, height=height, fill=CODEWORD, fill_opacity=1 if best else 0.45
            )
            level(figure, x - 2, x + 17, base - 170 * float(scores.softmax(0)[code]), LATENT, 3)
        level(figure, left, left + 178, base, GREY, 1)
        figure.text(left + 89, 24, f"τ = {temperature:g}", bold=True)
        figure.text(left + 89, base + 20, "codes 0 to 7")
    figure.legend(("line", LATENT, "without noise"), ("dot", CODEWORD, "one sample, with noise"))
    return figure


def level(figure: Figure, start: float, end: float, y: float, colour: str, width: float) -> None:
    figure.add("line", x1=start, x2=end, y1=y, y2=y, stroke=colour, stroke_width=width)
