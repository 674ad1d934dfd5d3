"""DiffAug: differentiable random augmentation of the discriminator's inputs (arXiv:2006.10738)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DiffAug(nn.Module):
    """Augments images (b, c, H, W) in [-1, 1]; differentiable, with separate random values for each image.

    In evaluation mode nothing is changed. Random values come from torch's generator, whose state is part of
    checkpoints.

    Args:
        colour: True changes brightness (by up to ±0.5), saturation (0 to 2 times) and contrast (0.5 to 1.5 times);
            values may leave [-1, 1].
        translation: Largest shift as a share of each side, in [0, 1]; new pixels are zero (grey). 0 for none.
        cutout: Side of a square set to grey, as a share of each side, in [0, 1]. 0 for none.
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
            images = mask_square(images, self.cutout)
        return images


def change_colour(images: Tensor) -> Tensor:
    """Changes brightness, then saturation around each pixel's grey, then contrast around each image's mean."""
    draw = torch.rand(3, len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
    images = images + (draw[0] - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * draw[1])
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (draw[2] + 0.5)


def translate(images: Tensor, share: float) -> Tensor:
    """Shifts each image by an integer number of pixels, up to ``share`` of its height and width in each direction."""
    b, c, height, width = images.shape
    most = [round(share * side) for side in (height, width)]
    down, right = (torch.randint(-m, m + 1, (b, 1), device=images.device) for m in most)
    # With padding by the largest shift, every source position lies within the padded image.
    padded = F.pad(images, (most[1], most[1], most[0], most[0]))
    rows = torch.arange(height, device=images.device) + most[0] - down  # (b, H)
    columns = torch.arange(width, device=images.device) + most[1] - right
    image = torch.arange(b, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def mask_square(images: Tensor, share: float) -> Tensor:
    """Sets a square of ``share`` of each image's sides to grey.

    Its centre is anywhere, so it may lie partly outside.
    """
    b, _, height, width = images.shape
    inside = []
    for side in (height, width):
        length = round(share * side)
        first = torch.randint(0, side + 1, (b, 1), device=images.device) - length // 2
        positions = torch.arange(side, device=images.device)
        inside.append((positions >= first) & (positions < first + length))
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)
