"""Errors of an image's blocks by contrast, by hand."""

import math

import torch

from vistok.metrics.contrast_thirds import contrast_errors


def board(contrast: int) -> torch.Tensor:
    """A block (8, 8) of levels 100 ± contrast, half of each."""
    sign = torch.arange(64).view(8, 8) % 2 * 2 - 1
    return 100 + contrast * sign


def test_six_blocks_by_hand():
    """Contrasts 40, 0, 20 and 10, 50, 30 in two rows; each block has its own error."""
    contrasts, offsets = [40, 0, 20, 10, 50, 30], [1, 2, 3, 4, 5, 6]
    rows = [torch.cat([board(own) for own in contrasts[i : i + 3]], 1) for i in (0, 3)]
    image = torch.cat(rows, 0).expand(1, 3, 16, 24).to(torch.uint8)
    error = torch.tensor(offsets).view(2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
    found = contrast_errors((image + error).to(torch.uint8), image)
    # sorted: 0 (error 2), 10 (4) | 20 (3), 30 (6) | 40 (1), 50 (5)
    assert found.error.tolist() == [[(4 + 16) / 2, (9 + 36) / 2, (1 + 25) / 2]]
    assert found.contrast.tolist() == [[5, 25, 45]]


def test_channels_and_borders():
    image = torch.full((1, 3, 9, 25), 100, dtype=torch.uint8)
    image[:, 0, :8, 8:16] = board(30).to(torch.uint8)  # one of three channels: √(900 / 3)
    image[:, :, 8] = 255  # below the last complete block
    off = image.clone()
    off[..., 8, :] = 0
    off[..., 24] = 0
    off[:, 1, :8, 8:16] += 6
    found = contrast_errors(off, image)
    assert found.error.tolist() == [[0, 0, 12]]
    torch.testing.assert_close(found.contrast, torch.tensor([[0, 0, math.sqrt(300)]], dtype=torch.float64))


def test_equal_blocks_keep_their_order_and_few_blocks_leave_thirds_empty():
    image = torch.full((1, 3, 8, 32), 100, dtype=torch.uint8)
    error = torch.tensor([1, 2, 3, 4]).repeat_interleave(8)
    found = contrast_errors((image + error).to(torch.uint8), image)
    assert found.error.tolist() == [[2.5, 9, 16]]  # places 0 and 1, 2, 3 of four
    few = contrast_errors(image[..., :12] + 1, image[..., :12])
    assert few.error[0, 0] == 1 and few.error[0, 1:].isnan().all()
    none = contrast_errors(image[..., :7, :] + 1, image[..., :7, :])
    assert none.error.shape == none.contrast.shape == (1, 3) and all(own.isnan().all() for own in none)
