"""DiffAug: the discriminator sees real and reconstructed images through random changes (arXiv:2006.10738)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DiffAug(nn.Module):
    """Images (b, c, H, W) in [-1, 1] to changed ones of that shape; differentiable, drawn for each image.

    In evaluation mode nothing is changed. The draws come from torch's generator, whose state checkpoints hold.

    Args:
        colour: Whether to change brightness (by up to ±0.5), saturation (0 to 2 times) and contrast (0.5 to 1.5 times);
            values may leave [-1, 1].
        translation: Largest shift as a share of each side; zeros (grey) come in from outside. 0 for none.
        cutout: Side of a square set to grey, as a share of each side. 0 for none.
    """

    def __init__(self, colour: bool = True, translation: float = 1 / 8, cutout: float = 1 / 2):
        super().__init__()
        for name, share in (("translation", translation), ("cutout", cutout)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share of the image's side, in [0, 1], not {share}")
        self.colour, self.translation, self.cutout = colour, translation, cutout

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return images
        if self.colour:
            images = change_colour(images)
        if self.translation:
            images = translate(images, self.translation)
        if self.cutout:
            images = cut_out(images, self.cutout)
        return images


def change_colour(images: Tensor) -> Tensor:
    """Brightness, then saturation around each pixel's grey, then contrast around each image's mean."""
    draw = torch.rand(3, len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
    images = images + (draw[0] - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * draw[1])
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (draw[2] + 0.5)


def translate(images: Tensor, share: float) -> Tensor:
    """Shift each image by up to ``share`` of its height and width, each way, in whole pixels."""
    b, c, height, width = images.shape
    most = [round(share * side) for side in (height, width)]
    down, right = (torch.randint(-m, m + 1, (b, 1), device=images.device) for m in most)
    # Padded by the largest shift, every source position lies within the padded image.
    padded = F.pad(images, (most[1], most[1], most[0], most[0]))
    rows = torch.arange(height, device=images.device) + most[0] - down  # (b, H)
    columns = torch.arange(width, device=images.device) + most[1] - right
    image = torch.arange(b, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def cut_out(images: Tensor, share: float) -> Tensor:
    """Grey a square of ``share`` of the sides of each image; its centre is anywhere, so that part may lie outside."""
    b, _, height, width = images.shape
    inside = []
    for side in (height, width):
        length = round(share * side)
        first = torch.randint(0, side + 1, (b, 1), device=images.device) - length // 2
        positions = torch.arange(side, device=images.device)
        inside.append((positions >= first) & (positions < first + length))
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)
