"""The fast form of structural similarity against the plain one, over what pixels can be."""

import pytest
import torch
import torch.nn.functional as F
from skimage.data import astronaut
from torch import Tensor

from vistok.evaluation import Protocol, ScoringNetworks, accumulator
from vistok.metrics import distances, similarity
from vistok.quantizers import Codes

GAUSSIAN, FLAT = distances.gaussian(11, 1.5), torch.full((7,), 1 / 7, dtype=torch.float64)


@pytest.fixture(scope="module")
def kinds() -> dict[str, tuple[Tensor, Tensor]]:
    """A copy and its images, uint8 (2, 3, 40, 57) each."""
    noise = torch.randint(256, (2, 3, 40, 57), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    photo = torch.from_numpy(astronaut()).permute(2, 0, 1)[None, :, 100:400, 150:450]
    photo = torch.stack([photo[0, :, :40, :57], photo[0, :, 200:240, 100:157]])
    flat = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand_as(noise)
    white = torch.full_like(noise, 255)
    return {
        "photo": ((photo.float() + noise / 16).clamp(0, 255).to(torch.uint8), photo),
        "noise": (noise.flip(0), noise),
        "flat": (flat.flip(0), flat),
        "saturated": (white - (noise > 250).byte(), white),
        "one level off": (white - 1, white),
        "inverted": (255 - photo, photo),
    }


def plainly(x: Tensor, y: Tensor, window: Tensor, highest: float = 255.0, factor: float = 1.0) -> Tensor:
    luminance, contrast = similarity.terms_by_convolution(x.double(), y.double(), window, highest, factor)
    return (luminance * contrast).mean((1, 2, 3))


def test_all_forms_are_the_plain_one(kinds):
    close = {"rtol": 0, "atol": 1e-11}  # where the plain form itself has an error of 65,025 · 2⁻⁵³ / c₂
    for kind, (x, y) in kinds.items():
        for highest in (255.0, 510.0):
            expected = plainly(x, y, GAUSSIAN, highest)
            actual = similarity.inner_means(x, y, GAUSSIAN, highest)
            torch.testing.assert_close(actual, expected, **close, msg=f"{kind}, {highest}")
            expected = plainly(x, y, FLAT, highest, 49 / 48)
            actual = similarity.flat_means(x, y, 7, highest)
            torch.testing.assert_close(actual, expected, **close, msg=f"{kind}, {highest}")
        padded = [F.pad(side.double(), [5] * 4, mode="reflect") for side in (x, y)]
        actual = similarity.reflected_means(x, y, GAUSSIAN, 255.0)
        torch.testing.assert_close(actual.similarity, plainly(*padded, GAUSSIAN), **close, msg=kind)
        _, contrast = similarity.terms_by_convolution(x.double(), y.double(), GAUSSIAN, 255.0)
        torch.testing.assert_close(actual.contrast, contrast.mean((1, 2, 3)), **close, msg=kind)


def test_equal_images_are_exactly_alike(kinds):
    for _, images in kinds.values():
        assert similarity.flat_means(images, images, 7, 255.0).tolist() == [1, 1]
        means = similarity.reflected_means(images, images, GAUSSIAN, 255.0)
        assert means.similarity.tolist() == means.contrast.tolist() == [1, 1]


@pytest.mark.parametrize("size", [(11, 11), (11, 48), (35, 12), (58, 34), (120, 83)])
def test_every_size_of_tiles(size):
    x, y = torch.randint(256, (2, 2, 1, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    torch.testing.assert_close(similarity.inner_means(x, y, GAUSSIAN, 255.0), plainly(x, y, GAUSSIAN))
    torch.testing.assert_close(similarity.flat_means(x, y, 7, 255.0), plainly(x, y, FLAT, factor=49 / 48))


@pytest.mark.parametrize("box", [1, 2, 3, 5, 7, 8, 11])
def test_box_sums(box):
    planes = torch.randint(-255, 511, (13, 2, 16), dtype=torch.int32)
    expected = F.avg_pool2d(planes.transpose(0, 1).double(), box, 1).mul(box**2).round().int()
    assert torch.equal(similarity.box_sums(planes, box), expected.transpose(0, 1))


def test_a_value_does_not_depend_on_the_rest_of_the_batch(monkeypatch):
    images = torch.randint(256, (5, 3, 176, 177), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    copies = (images // 2 + 60).to(torch.uint8)
    names = [name for name in distances.DISTANCES if "ssim" in name]
    assert len(names) == 7
    for chunk in (similarity.CHUNK, 4 * 176 * 177):  # planes of two images in one chunk
        monkeypatch.setattr(similarity, "CHUNK", chunk)
        for name in names:
            together = distances.DISTANCES[name](copies, images).float()
            alone = torch.cat([distances.DISTANCES[name](copies[i : i + 1], images[i : i + 1]) for i in range(5)])
            assert torch.equal(together, alone.float()), name


def test_one_gaussian_pass_serves_two_metrics(monkeypatch, make_tokenizer):
    sizes, pass_, tokenizer = [], distances.gauss11_means, make_tokenizer()

    def noting(x: Tensor, y: Tensor) -> similarity.SimilarityMeans:
        sizes.append(x.shape[-1])
        return pass_(x, y)

    for module in (accumulator, distances):
        monkeypatch.setattr(module, "gauss11_means", noting)
    protocols = {
        "one": Protocol(distances=["ms_ssim", "ssim_gauss11"]),
        "other": Protocol(lpips="float", distances=["ssim_gauss11"]),
    }
    scores = accumulator.Scores(protocols, tokenizer, ScoringNetworks())
    images = torch.randint(256, (1, 3, 176, 176), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    codes = Codes(torch.zeros(1, 1, 44, 44, dtype=torch.int64))
    scores.update(["a"], images, -(images / 127.5 - 1), codes)
    assert sorted(sizes) == [11, 22, 44, 88, 176]
    inverted = 255 - images
    assert scores.values("one")["ssim_gauss11"].item() == pytest.approx(distances.ssim_gauss11(inverted, images).item())
    assert scores.values("one")["ms_ssim"].item() == pytest.approx(distances.ms_ssim(inverted, images).item())
