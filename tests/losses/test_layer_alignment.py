"""GigaTok's alignment of a decoder layer's features: the authors' values, layouts and what it refuses."""

import pytest
import torch
from torch import nn

from vistok.losses import LayerAlignment, Teacher
from vistok.losses.alignment import patch_distance


class Fixed(nn.Module):
    """A teacher whose features are given."""

    patches = True

    def __init__(self, features):
        super().__init__()
        self.features, self.dim = features, features.shape[2]

    def forward(self, images):
        return self.features


def images(height=32, width=32):
    return torch.zeros(3, 3, height, width)


def test_gigatok(golden, close):
    values = golden("alignment", "gigatok_align")
    loss = LayerAlignment("decoder", Fixed(values["teacher"]), dim=32)
    state = {key.split(".", 2)[2]: t for key, t in values.items() if key.startswith("state.distill_mlp.")}
    loss.predictor.load_state_dict(state)
    close(loss.predictor(values["feat"]), values["inner_feat"])
    value = loss(values["feat"], images())
    close(value - 1, values["loss.proj"])
    close(0.5 * (value - 1), values["loss.total"])
    (0.5 * value).backward()
    checked = 0
    for name, parameter in loss.predictor.named_parameters():
        if (expected := values.get(f"grad.distill_mlp.{name}")) is not None:
            close(parameter.grad, expected)
            checked += 1
    assert checked == 5
    inner = values["inner_feat"].requires_grad_()
    as_map = inner.transpose(1, 2).unflatten(2, (4, 4))
    (gradient,) = torch.autograd.grad(0.5 * patch_distance(as_map, values["teacher"]), inner)
    close(gradient, values["grad.inner_feat"])


def test_tokens_and_maps_are_the_same():
    torch.manual_seed(0)
    loss = LayerAlignment("decoder", Fixed(torch.randn(3, 16, 8)), dim=4)
    tokens = torch.randn(3, 32, 4)  # 8 x 4
    as_map = tokens.reshape(3, 8, 4, 4).permute(0, 3, 1, 2)
    value = loss(tokens, images(64, 32))
    torch.testing.assert_close(value, loss(as_map, images(64, 32)), rtol=0, atol=0)
    assert (value - loss(tokens, images(32, 64))).abs() > 1e-4  # 4 x 8


@pytest.mark.parametrize("shape", [(3, 16, 5), (3, 17, 4), (3, 5, 4, 4), (3, 4)])
def test_features_that_are_no_grid(shape):
    loss = LayerAlignment("decoder.norm", Fixed(torch.randn(3, 16, 8)), dim=4)
    with pytest.raises(ValueError, match=r"layer=decoder.norm gives \(3, .*dim=4 needs a map \(b, 4, h, w\)"):
        loss(torch.randn(shape), images())


def test_a_teacher_of_whole_images_is_refused():
    with pytest.raises(ValueError, match="patches=False: this loss compares patches"):
        LayerAlignment("decoder", Teacher("test_vit", "random"), dim=4)
