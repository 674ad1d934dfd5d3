"""Figures of heads whose codebook is computed: simvq and vqbridge."""

from collections.abc import Callable

import torch
from figures.drawing import CODEWORD, LATENT, WIDTH, Figure, Panel
from figures.tables import spread, vectors, with_codewords
from torch import Tensor

from vistok.quantizers import Quantizer, SimVQ, VectorQuantizer, VQBridge


def cloud(n: int, centre: tuple[float, float], std: float) -> Tensor:
    """A latent (1, 2, 1, n) of normal vectors."""
    return (torch.tensor(centre) + std * torch.randn(n, 2)).T[None, :, None]


def one_update(head: Quantizer, codebook: Callable[[], Tensor], z: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Codewords before and after a step of gradient descent on the ``codebook`` loss."""
    before = codebook().detach().clone()
    head(z).losses["codebook"].backward()
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
    return before, codebook().detach()


def simvq() -> Figure:
    title = "One update moves only the chosen codewords of a plain codebook, and all codewords of SimVQ"
    figure = Figure(350, title)
    torch.manual_seed(1)
    mapped = SimVQ(14, 2)
    mapped.basis.copy_(spread(14, (1.0, 1.0), seed=4))
    with torch.no_grad():
        mapped.projection.weight.copy_(torch.tensor([[0.9, -0.2], [0.25, 0.8]]))
        mapped.projection.bias.zero_()
    plain = VectorQuantizer(14, 2)
    with_codewords(plain, mapped.codebook().detach())
    z = cloud(24, (1.15, 0.85), 0.22)
    for left, title, head, rate in ((1, "vq: one update", plain, 2.2), (287, "simvq: one update", mapped, 0.75)):
        panel = Panel(figure, (left, 28, 272, 272), centre=(0.1, 0.1), reach=1.75)
        chosen = set(head.encode(z).codes.flatten().tolist())
        before, after = one_update(head, head.codebook, z, rate)
        for point in vectors(z):
            panel.dot(point, LATENT, radius=2.5)
        for code, (start, end) in enumerate(zip(before.numpy(), after.numpy(), strict=True)):
            panel.dot(start, CODEWORD, filled=code in chosen, radius=5)
            panel.arrow(start, end, CODEWORD, width=2.5)
        panel.frame(title)
    figure.legend(
        ("dot", LATENT, "latent"),
        ("ring", CODEWORD, "codeword"),
        ("dot", CODEWORD, "chosen"),
        ("arrow", CODEWORD, "update"),
    )
    return figure


def vqbridge() -> Figure:
    title = "Codewords of VQBridge leave the origin together and spread over the latents in 160 updates"
    figure = Figure(340, title)
    torch.manual_seed(0)
    head = VQBridge(16, 2, size="XS", patch=2)
    with torch.no_grad():
        head.basis.normal_()
    optimizer = torch.optim.Adam(head.parameters(), lr=4e-3)
    angles = 2 * torch.pi * torch.rand(192)
    z = (torch.stack([2.1 * angles.cos(), 1.0 * angles.sin()], 1) + 0.15 * torch.randn(192, 2)).T[None, :, None]
    trails = [head.codebook().detach()]
    for _ in range(160):
        optimizer.zero_grad()
        head(z).losses["codebook"].backward()
        optimizer.step()
        trails.append(head.codebook().detach())
    panel = Panel(figure, (1, 1, WIDTH - 2, 298), reach=2.8)
    for point in vectors(z):
        panel.dot(point, LATENT, radius=2)
    chosen = set(head.encode(z).codes.flatten().tolist())
    for code, trail in enumerate(torch.stack(trails, 1).numpy()):
        panel.line(trail, CODEWORD, 1.5, opacity=0.6)
        panel.dot(trail[-1], CODEWORD, filled=code in chosen)
    panel.frame()
    figure.legend(
        ("dot", LATENT, "latent"), ("line", CODEWORD, "way of a codeword"), ("dot", CODEWORD, "after 160 updates")
    )
    return figure
