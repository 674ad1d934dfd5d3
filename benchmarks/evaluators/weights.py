"""Files of random weights for the networks that evaluators download: the same at every call."""

from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from torchvision.models import alexnet, vgg16


def write_weights(folder: Path) -> dict[str, Path]:
    """Writes Inception, AlexNet and VGG-16, initialised after He, so that a signal passes through all layers."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        mock.patch.object(fidelity, "load_state_dict_from_url"),
        mock.patch.object(fidelity.FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        networks = {
            "inception": lambda: fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]),
            "alex": lambda: alexnet(weights=None),
            "vgg": lambda: vgg16(weights=None),
        }
        paths = {}
        for name, make in networks.items():
            torch.manual_seed(0)
            network = make()
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
            if name == "inception":
                network.fc.weight.data *= 30  # else all images have nearly the same classes
            paths[name] = folder / f"{name}.pt"
            torch.save(network.state_dict(), paths[name])
    return paths
