"""The average of the weights: trained parameters are averaged, all else is copied."""

import pytest
import torch

from vistok.training.ema import AveragedTokenizer


def test_by_hand(make_tokenizer):
    tokenizer = make_tokenizer()
    average = AveragedTokenizer(tokenizer, 0.75)
    before = tokenizer.encoder.conv_in.weight.detach().clone()
    with torch.no_grad():
        tokenizer.encoder.conv_in.weight.add_(4.0)
    average.update(tokenizer)
    torch.testing.assert_close(average.tokenizer.encoder.conv_in.weight, before + 1.0)


def test_buffers_and_frozen_parameters_are_copied(make_tokenizer):
    tokenizer = make_tokenizer(ema_decay=0.9)
    tokenizer.decoder.requires_grad_(False)
    average = AveragedTokenizer(tokenizer, 0.9)
    with torch.no_grad():
        tokenizer.quantizer.codewords.add_(1.0)
        tokenizer.decoder.conv_out.bias.add_(1.0)
    average.update(tokenizer)
    assert torch.equal(average.tokenizer.quantizer.codewords, tokenizer.quantizer.codewords)
    assert torch.equal(average.tokenizer.decoder.conv_out.bias, tokenizer.decoder.conv_out.bias)


def test_one_pass_equals_the_definition(make_tokenizer):
    """With weights that are channels last since the average was made; a skipped update changes nothing."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    average = AveragedTokenizer(tokenizer, 0.9)
    tokenizer.to(memory_format=torch.channels_last)
    expected = [parameter.detach().clone() for parameter in average.parameters()]
    for applied in (1.0, 0.0, 1.0):
        with torch.no_grad():
            for parameter in tokenizer.parameters():
                parameter.add_(torch.randn_like(parameter))
        weights = [parameter.detach().clone() for parameter in tokenizer.parameters()]
        average.update(tokenizer, torch.tensor(applied))
        expected = [own + 0.1 * applied * (weight - own) for own, weight in zip(expected, weights, strict=True)]
        torch.testing.assert_close(list(average.parameters()), expected, rtol=1e-6, atol=1e-6)
        assert all(torch.equal(*pair) for pair in zip(weights, tokenizer.parameters(), strict=True))


def test_it_is_not_trained(make_tokenizer):
    average = AveragedTokenizer(make_tokenizer(), 0.9)
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_wrong_decay(make_tokenizer):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), not 1"):
        AveragedTokenizer(make_tokenizer(), 1)
