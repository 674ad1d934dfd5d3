"""VQBridge against its authors' values and counts."""

import pytest
import torch

from vistok.quantizers import VQBridge
from vistok.quantizers.vqbridge import grid_of

PLACES = (  # theirs to ours
    ("embedding.weight", "table"),
    ("qbridge.pos_embed", "bridge.positions"),
    ("qbridge.x_embedder.proj", "bridge.compress"),
    ("qbridge.y_embedder.embedding_table.weight", "bridge.condition"),
    ("qbridge.final_layer.linear", "bridge.recover"),
    ("qbridge.final_layer.adaLN_modulation.1", "bridge.modulation"),
    ("qbridge.blocks", "bridge.blocks"),
    ("attn.qkv", "qkv"),
    ("attn.proj", "out"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.2"),
    ("adaLN_modulation.1", "modulation"),
)


def renamed(name):
    for theirs, ours in PLACES:
        name = name.replace(theirs, ours)
    return name


def load(head, tensors):
    own = head.state_dict()
    head.load_state_dict({renamed(n): t.reshape(own[renamed(n)].shape) for n, t in tensors.items()})
    return head


@pytest.mark.parametrize("variant", ["vit", "dit"])
def test_fvq(golden, close, variant):
    values = golden("vqbridge", f"fvq_{variant}")
    theirs = {name.removeprefix("state."): t for name, t in values.items() if name.startswith("state.")}
    head = load(VQBridge(64, 8, size="XS", patch=2, variant=variant), theirs)
    close(head.codebook(), values["effective_codebook"])
    z = values["z"].requires_grad_()
    quantized = head(z)
    assert torch.equal(quantized.codes[:, 0], values["codes"])
    close(quantized.latent, values["zq"])
    close(quantized.losses["codebook"], values["loss.vq"])
    close(0.25 * quantized.losses["commitment"], values["loss.commit"])
    loss = quantized.losses["codebook"] + 0.25 * quantized.losses["commitment"]
    close(loss, values["loss.total"])
    upstream = (values["up.zq"] * quantized.latent).sum()
    parameters = dict(head.named_parameters()) | {"table": head.basis}
    learned = {n: parameters[renamed(n)] for n in theirs if n != "qbridge.pos_embed"}
    assert len(learned) == sum(p.requires_grad for p in head.parameters())
    for kind, total in (("gradloss", loss), ("grad", loss + upstream)):
        gradients = torch.autograd.grad(total, [z, *learned.values()], retain_graph=True)
        for name, gradient in zip(("z", *learned), gradients, strict=True):
            close(gradient, values[f"{kind}.{name}"])


@pytest.mark.parametrize("name, size, patch, variant", [("fvq_vit", "XS", 2, "vit"), ("fvq_dit", "S", 4, "dit")])
def test_whole_models(family, close, name, size, patch, variant):
    """The head of the authors' models, and the table that they convert it to."""
    weights, io = family(name)
    converted, _ = family(f"{name}_converted")
    theirs = {key.removeprefix("quantize."): t for key, t in weights.items() if key.startswith("quantize.")}
    theirs.pop("codebook_used")
    head = load(VQBridge(*theirs["embedding.weight"].shape, size=size, patch=patch, variant=variant), theirs).eval()
    close(head.for_inference().codewords, converted["quantize.embedding.weight"])
    for evaluated in (head, head.for_inference()):
        quantized = evaluated(io["latent"])
        assert torch.equal(quantized.codes[:, 0], io["codes"])
        close(quantized.latent, io["quantized"])


@pytest.mark.parametrize("codebook_size, patch, variant, total, learned", [
    (16384, 4, "vit", 3_153_664, 3_153_664),
    (16384, 4, "dit", 4_337_152, 4_075_008),
    (65536, 8, "vit", 9_457_408, 9_457_408),
    (65536, 8, "dit", 10_640_896, 10_378_752),
    (262144, 8, "vit", 9_457_408, 9_457_408),
    (262144, 8, "dit", 11_427_328, 10_378_752),
])  # fmt: skip
def test_published_counts(codebook_size, patch, variant, total, learned):
    with torch.device("meta"):
        bridge = VQBridge(codebook_size, 256, size="L", patch=patch, variant=variant).bridge
    assert sum(p.numel() for p in bridge.parameters()) == total
    assert sum(p.numel() for p in bridge.parameters() if p.requires_grad) == learned


@pytest.mark.parametrize("codebook_size, patch, grid", [
    (16384, 4, (128, 128)),
    (8192, 4, (64, 128)),
    (512, 4, (16, 32)),
    (1000, 4, (28, 36)),
    (12, 4, (4, 4)),
    (2, 1, (1, 2)),
    (997, 1, (1, 997)),
])  # fmt: skip
def test_grids(codebook_size, patch, grid):
    assert sorted(grid_of(codebook_size, patch)) == sorted(grid)


@pytest.mark.parametrize("codebook_size", [1000, 37])
def test_a_size_that_is_no_square(codebook_size):
    """Its codewords are those of the padded grid: nothing else sees the zeros behind the last one."""
    torch.manual_seed(0)
    head = VQBridge(codebook_size, 8, size="XS", patch=4)
    torch.nn.init.normal_(head.bridge.recover.weight)
    rows, columns = head.bridge.grid
    whole = torch.zeros(rows * columns, 8)
    whole[:codebook_size] = head.basis.detach()
    assert torch.equal(head.codebook(), head.bridge(whole)[:codebook_size])
    assert head.codebook().shape == (codebook_size, 8) and len(head.codebook().unique(dim=0)) == codebook_size


@pytest.mark.parametrize("variant", ["vit", "dit"])
def test_all_codewords_are_zero_at_first_and_part_within_a_few_steps(variant):
    torch.manual_seed(0)
    head = VQBridge(64, 8, size="S", patch=4, variant=variant)
    assert not head.codebook().any() and not head(torch.randn(1, 8, 4, 4)).codes.any()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    z = torch.randn(4, 8, 8, 8)
    for _ in range(100):
        optimizer.zero_grad()
        head(z).losses["codebook"].backward()
        optimizer.step()
    assert len(head(z).codes.unique()) > 16


def test_the_bridge_runs_once_in_a_forward():
    head, runs = VQBridge(64, 8, size="XS"), []
    head.bridge.register_forward_hook(lambda *_: runs.append(1))
    head(torch.randn(1, 8, 4, 4))
    assert len(runs) == 1
    folded = head.for_inference()
    folded(torch.randn(1, 8, 4, 4))
    assert len(runs) == 2  # for the folding itself


@pytest.mark.parametrize("arguments, message", [
    ({"codebook_size": 64, "patch": 9}, "patch=9 must be between 1 and 8"),
    ({"codebook_size": 64, "patch": 0}, "patch=0 must be between 1 and 8"),
    ({"codebook_size": 64, "size": "M"}, "size must be one of XS, S, B, L, XL, not 'M'"),
    ({"codebook_size": 64, "variant": "mlp"}, "variant must be one of vit, dit, not 'mlp'"),
    ({"codebook_size": 1}, "codebook_size must be at least 2, not 1"),
])  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        VQBridge(dim=8, **arguments)
