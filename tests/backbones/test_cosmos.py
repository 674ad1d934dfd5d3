"""The networks over Haar wavelets: published sizes, the transform by hand, and where levels change resolution."""

import pytest
import torch

from vistok.backbones import CosmosDecoder, CosmosEncoder
from vistok.backbones.cosmos import haar, inverse_haar


@pytest.mark.parametrize("halvings, encoder, decoder", [(1, 32_259_712, 46_741_296), (2, 34_619_520, 49_101_104)])
def test_published_parameter_counts(halvings, encoder, decoder):
    with torch.device("meta"):
        networks = CosmosEncoder(halvings=halvings), CosmosDecoder(halvings=halvings)
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [encoder, decoder]


def test_haar_by_hand():
    """Two channels of one 2 x 2 block: means, top less bottom, left less right, both; channels side by side in each."""
    image = torch.tensor([[[[8.0, 4.0], [2.0, 6.0]], [[0.0, 0.0], [0.0, 4.0]]]])
    assert haar(image).flatten().tolist() == [5, 1, 1, -1, 0, -1, 2, 1]
    torch.testing.assert_close(inverse_haar(haar(image)), image, rtol=0, atol=0)


def test_two_steps_are_the_published_filters():
    """Separable filters (1, 1) / √2 and (1, -1) / √2, left and right first, halved, and the same of all 12 channels."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    expected = images
    for _ in range(2):
        low, high = ((expected[..., ::2] + sign * expected[..., 1::2]) / 2**0.5 for sign in (1, -1))
        bands = [(own[:, :, ::2] + sign * own[:, :, 1::2]) / 2**0.5 for own in (low, high) for sign in (1, -1)]
        expected = torch.cat(bands, dim=1) / 2
    torch.testing.assert_close(haar(haar(images)), expected)
    torch.testing.assert_close(inverse_haar(inverse_haar(expected)), images)


@pytest.mark.parametrize("halvings, down, up", [(1, [16, 8, 8], [8, 16, 16]), (2, [16, 8, 4], [4, 8, 16])])
def test_resolution_of_each_level(halvings, down, up):
    """At f8 the encoder halves after its first level alone, and the decoder doubles after its first."""
    size = {"channels": 8, "multipliers": (1, 2, 2), "num_blocks": 1, "dim": 6, "halvings": halvings}
    encoder, decoder = CosmosEncoder(**size), CosmosDecoder(**size)
    seen = {encoder: [], decoder: []}
    for network, found in seen.items():
        for level in network.levels:
            level.blocks[0].register_forward_hook(lambda _, __, h, found=found: found.append(h.shape[-1]))
    images = torch.randn(1, 3, 32, 64)
    latent = encoder(images)
    assert encoder.factor == decoder.factor == 4 * 2**halvings
    assert latent.shape == (1, 6, 32 // encoder.factor, 64 // encoder.factor)
    assert decoder(latent).shape == images.shape and decoder.last_layer is decoder.conv_out.weight
    assert list(seen.values()) == [down, up]


def test_halvings_beyond_the_levels():
    with pytest.raises(ValueError, match="halvings=4 must be 0 to the 3 levels"):
        CosmosEncoder(halvings=4)


@pytest.mark.parametrize("halvings, latent, pixels", [
    (1, [-0.13235, -0.05273, 0.04983, 0.09305], [-0.17126, -0.10068, 0.00927, 0.33144]),
    (2, [0.81961, 0.46337, -0.20765, -0.04735], [0.45848, 0.2485, 0.35224, 0.07235]),
])  # fmt: skip
def test_values_of_the_authors_code(halvings, latent, pixels):
    """NVIDIA/Cosmos-Tokenizer at commit 3584ae7, in float64, with these weights under its own names."""
    size = {"channels": 32, "multipliers": (2, 1, 3), "num_blocks": 1, "dim": 6, "halvings": halvings}
    encoder, decoder = CosmosEncoder(**size).double(), CosmosDecoder(**size).double()
    with torch.no_grad():
        for network in (encoder, decoder):
            for i, (name, weight) in enumerate(network.named_parameters()):
                wave = (torch.arange(weight.numel(), dtype=torch.float64) * 0.37 + i).sin().view_as(weight)
                scale = "norm" in name and name.endswith("weight")
                weight.copy_(wave * (0.1 if weight.ndim > 1 else 0.3) + (1.0 if scale else 0.0))
        image = (torch.arange(3 * 32 * 48, dtype=torch.float64) * 0.11).sin().view(1, 3, 32, 48)
        encoded = encoder(image)
        decoded = decoder(encoded)
    for values, expected in ((encoded.flatten()[:4], latent), (decoded.flatten()[::1000][:4], pixels)):
        torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-5)
