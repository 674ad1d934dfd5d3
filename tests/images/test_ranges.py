"""PixelMap with one number for each channel."""

import pytest
import torch
from omegaconf import OmegaConf

import vistok
from vistok import PixelMap, Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.formats import native
from vistok.quantizers import VectorQuantizer

SIZE = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (), "dim": 4}


def test_each_channel_has_its_scale_and_shift():
    pixels = PixelMap([2, 4, 0.5], [1, -1, 0])
    images = torch.tensor([1.0, -0.5, 0.25]).view(1, 3, 1, 1).expand(2, 3, 2, 2)
    mapped = pixels.into(images)
    assert mapped[1, :, 0, 1].tolist() == [3, -3, 0.125]
    assert torch.equal(pixels.out(mapped), images)
    assert PixelMap([2, 4, 0.5], 1).into(images)[0, :, 0, 0].tolist() == [3, -1, 1.125]


def test_a_list_of_yaml_or_json_is_the_same_map():
    yaml = OmegaConf.create({"scale": [2.0, 3.0], "shift": [0.0, 1.0]})
    assert PixelMap(yaml.scale, yaml.shift) == PixelMap((2.0, 3.0), [0.0, 1.0])
    assert native.build(native.describe(PixelMap((2.0, 3.0), 0.5))) == PixelMap([2.0, 3.0], 0.5)
    assert native.describe(PixelMap(0.5, 0.5)) == {"class": "PixelMap", "scale": 0.5, "shift": 0.5}


@pytest.mark.parametrize(
    ("scale", "shift", "message"),
    [([1, 2], [1, 2, 3], "one number for each channel"), ([], 0, "each channel"), ([1, 0, 1], 0, "must not be 0")],
)
def test_numbers_that_do_not_fit(scale, shift, message):
    with pytest.raises(ValueError, match=message):
        PixelMap(scale, shift)


def test_other_channels_are_refused_not_broadcast():
    with pytest.raises(ValueError, match="numbers for 3 channels, not for 1"):
        PixelMap((1, 2, 3)).into(torch.zeros(1, 1, 2, 2))


def test_an_exported_folder_keeps_the_numbers(tmp_path):
    tokenizer = Tokenizer(
        CNNEncoder(**SIZE), VectorQuantizer(8, 4), CNNDecoder(**SIZE), pixels=PixelMap([2, 2.5, 3], [0, 0.1, 0.2])
    )
    loaded = vistok.load(vistok.save(tokenizer, tmp_path))
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    assert loaded.pixels == tokenizer.pixels
    assert torch.equal(loaded.reconstruct(images)[0], tokenizer.eval().reconstruct(images)[0])
