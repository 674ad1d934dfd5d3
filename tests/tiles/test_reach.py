"""Reach of networks, measured with one NaN."""

import math

import pytest
from torch import nn

from vistok.tiles.reach import decoder_reach, encoder_reach


def test_by_hand(local):
    assert encoder_reach(local, 7) == 3 and decoder_reach(local, 7) == 2
    assert encoder_reach(local, 3) == 3 and encoder_reach(local, 2) == math.inf


def test_both_axes(local):
    local.encoder[0] = nn.Conv2d(3, 8, (17, 1), padding=(8, 0))  # 8 pixels up and down instead of 1
    assert encoder_reach(local, 7) == 5
    local.encoder[0] = nn.Conv2d(3, 8, (1, 17), padding=(0, 8))
    assert encoder_reach(local, 7) == 5


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate"])
def test_other_padding(local, padding_mode):
    local.encoder[-1].padding_mode = padding_mode
    assert encoder_reach(local, 7) == 3


def test_norms_over_all_positions_have_none(local, make_tokenizer):
    tokenizer = make_tokenizer().eval()
    assert encoder_reach(tokenizer, 7) == decoder_reach(tokenizer, 7) == math.inf
    local.encoder[1] = nn.BatchNorm2d(8).eval()
    assert encoder_reach(local, 7) == 3
