import torch

from vistok.images.padding import padded


def test_edges_are_repeated_right_and_below():
    images = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]], dtype=torch.uint8)
    expected = [[1, 2, 3, 3, 3], [4, 5, 6, 6, 6], [4, 5, 6, 6, 6]]
    assert padded(images, (3, 5))[0, 0].tolist() == expected
    assert padded(images == 6, (3, 5))[0, 0].sum() == 6  # any dtype, as of a mask


def test_images_of_that_size_are_returned_themselves():
    images = torch.rand(2, 3, 8, 12)
    assert padded(images, (8, 12)) is images
