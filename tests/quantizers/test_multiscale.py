"""Multi-scale quantization: the authors' values, the plain formula at other sizes, schedules, and what cannot be."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vistok import Tokenizer
from vistok.backbones import CNNDecoder, CNNEncoder
from vistok.formats import native
from vistok.quantizers import (
    FSQ,
    IBQ,
    BinaryQuantizer,
    Context,
    DynamicQuantizer,
    EntropyRouter,
    FactorizedQuantizer,
    FeatureRouter,
    Layout,
    MultiScaleQuantizer,
    ResidualQuantizer,
    SimVQ,
    Table,
    VectorQuantizer,
)
from vistok.quantizers.multiscale import phi_of
from vistok.quantizers.scale_schedules import grids_of

infinity = partial(MultiScaleQuantizer, phi=0, upsampling="bilinear", losses="steps", estimate="steps")


def vq(size=16, dim=4, **arguments):
    head = VectorQuantizer(size, dim, **arguments)
    nn.init.normal_(head.codewords)
    return head


def of_var(values, sides, prefix):
    table = values[f"{prefix}embedding.weight"]
    head = MultiScaleQuantizer(vq(*table.shape), sides)
    with torch.no_grad():
        head.head.codewords.copy_(table)
        for i, convolution in enumerate(head.convolutions):
            convolution.weight.copy_(values[f"{prefix}quant_resi.qresi_ls.{i}.weight"])
            convolution.bias.copy_(values[f"{prefix}quant_resi.qresi_ls.{i}.bias"])
    return head


def next_inputs(latents, layout):
    """The partial latents as the next scale of a generator reads them."""
    pooled = [F.interpolate(own, grid, mode="area") for own, grid in zip(latents, layout.grids[1:], strict=False)]
    return torch.cat([own.flatten(2).mT for own in pooled], dim=1)


def test_var(golden, close):
    """Codes, sums after each scale, inputs of the next, the loss, and gradients to latent, codebook and φ."""
    values = golden("summed", "var")
    head = of_var(values, [1, 2, 3, 4, 6], "state.")
    z = values["z"].requires_grad_()
    quantized, layout = head(z), head.layout(6, 6)
    assert torch.equal(quantized.codes[:, 0, 0], values["codes"]) and quantized.codes.shape == (2, 1, 1, 66)
    close(quantized.latent, values["zq"])
    latents = head.partial(quantized.codes, layout)
    close(torch.stack(latents, dim=1), values["fhat_per_scale"])
    close(next_inputs(latents, layout), values["var_input"])
    loss = 0.25 * quantized.losses["commitment"] + quantized.losses["codebook"]
    close(loss, values["loss.total"])
    (of_loss,) = torch.autograd.grad(loss, z, retain_graph=True)
    torch.testing.assert_close(of_loss, values["gradloss.z"], rtol=0, atol=1e-6)
    (loss + (quantized.latent * values["up.zq"]).sum()).backward()
    learned = {"z": z, "embedding.weight": head.head.codewords}
    for i, convolution in enumerate(head.convolutions):
        learned |= {f"quant_resi.qresi_ls.{i}.{name}": own for name, own in convolution.named_parameters()}
    assert len(learned) == 10
    for name, tensor in learned.items():
        torch.testing.assert_close(tensor.grad, values[f"grad.{name}"], rtol=0, atol=1e-6, msg=name)


def test_a_full_var(family, close):
    weights, values = family("var_vqvae")
    head = of_var(weights, [1, 2, 3, 5, 8], "quantize.").eval()
    codes, layout = head.encode(values["latent"]).codes, head.layout(8, 8)
    assert torch.equal(codes[:, 0, 0], values["codes"])
    latents = head.partial(codes, layout)
    close(torch.stack(latents, dim=1), values["quantized_per_scale"])
    close(next_inputs(latents, layout), values["var_input"])
    losses = head(values["latent"]).losses
    close(0.25 * losses["commitment"] + losses["codebook"], values["vq_loss"])


@pytest.mark.parametrize("group, gradient", [("infinity_msbsq", "latent"), ("infinity_msbsq_residual_grad", "both")])
def test_infinity(golden, close, group, gradient):
    values = golden("summed", group)
    head = infinity(BinaryQuantizer(6), [1, 2, 4, 6], residual_gradient=gradient)
    z = values["z"].requires_grad_()
    quantized, layout = head(z), head.layout(6, 6)
    for i, codes in enumerate(layout.split(quantized.codes)):
        assert torch.equal(codes[:, 0, ..., None] >> torch.arange(5, -1, -1) & 1, values[f"bits.{i}"])
    close(quantized.latent, values["zq"])
    (gradient,) = torch.autograd.grad(quantized.latent, z, values["up.zq"])
    close(gradient, values["grad.z"])
    latents = head.partial(quantized.codes, layout)
    for i, (latent, grid) in enumerate(zip(latents, layout.grids[1:], strict=False)):
        close(F.adaptive_avg_pool2d(latent, grid), values[f"next_area.{i}"])


def test_infinity_with_projections(golden, close):
    """Their linear maps and norm stand around the head; the factors of the scales are its own."""
    values = golden("summed", "infinity_msbsq_proj")
    learned = {name[6:]: tensor.requires_grad_() for name, tensor in values.items() if name.startswith("state.")}
    z = values["z"].requires_grad_()
    before = F.linear(z.movedim(1, -1), learned["project_in.weight"], learned["project_in.bias"])
    before = F.layer_norm(before, (6,), learned["layernorm.weight"], learned["layernorm.bias"], 1e-6).movedim(-1, 1)
    head = infinity(BinaryQuantizer(6), [1, 2, 4, 6], factors=[1.0, 0.9, 0.8, 0.7])
    quantized = head(before)
    after = F.linear(quantized.latent.movedim(1, -1), learned["project_out.weight"], learned["project_out.bias"])
    close(after.movedim(-1, 1), values["zq"])
    (after.movedim(-1, 1) * values["up.zq"]).sum().backward()
    for name, tensor in (*learned.items(), ("z", z)):
        close(tensor.grad, values[f"grad.{name}"])


def test_a_full_infinity(golden, close):
    values = golden("summed", "infinity_model")
    head = infinity(BinaryQuantizer(16), [1, 2, 3, 5, 8]).eval()
    codes = head.encode(values["z"]).codes
    assert torch.equal(codes[:, 0, 0, :, None] >> torch.arange(15, -1, -1) & 1, values["bits"].long())
    close(head.lookup(codes), values["zq"])
    close(head.lookup(codes[..., : 1 + 4 + 9]), values["zq_first3"])


def pooling(n, m):
    """Means over the cells of n positions among m: cell i from floor(i n / m) to ceil((i + 1) n / m)."""
    matrix = torch.zeros(m, n, dtype=torch.float64)
    for i in range(m):
        start, end = i * n // m, -(-(i + 1) * n // m)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def near(x, a=-0.75):
    """Keys' kernel for distances below 1."""
    return (a + 2) * x**3 - (a + 3) * x**2 + 1


def far(x, a=-0.75):
    """The same from 1 to 2."""
    return a * (x**3 - 5 * x**2 + 8 * x - 4)


def enlargement(m, n, bicubic):
    """Interpolation of m positions at n, with cell centres aligned and the border repeated."""
    matrix = torch.zeros(n, m, dtype=torch.float64)
    for i in range(n):
        centre = (i + 0.5) * m / n - 0.5
        left = int(np.floor(centre))
        t = centre - left
        weights = [far(1 + t), near(t), near(1 - t), far(2 - t)] if bicubic else [0, 1 - t, t, 0]
        if not bicubic and centre < 0:
            left, weights = 0, [0, 1, 0, 0]
        for place, weight in zip(range(left - 1, left + 3), weights, strict=True):
            matrix[i, min(max(place, 0), m - 1)] += weight
    return matrix


@pytest.mark.parametrize("size, dim, phi, ratio, upsampling, schedule", [
    (19, 5, 3, 0.3, "bicubic", [(1, 1), (2, 3), (5, 7)]),
    (33, 8, 4, 0.5, "bilinear", [(1, 2), (3, 4), (4, 4), (6, 5)]),
])  # fmt: skip
@pytest.mark.parametrize("losses", ["sums", "steps"])
def test_the_plain_formula(close, size, dim, phi, ratio, upsampling, schedule, losses):
    torch.manual_seed(0)
    estimate = "sum" if losses == "sums" else "steps"
    head = MultiScaleQuantizer(vq(size, dim), schedule, phi, ratio, upsampling, losses, estimate=estimate)
    h, w = schedule[-1]
    z = torch.randn(2, dim, h, w, requires_grad=True)
    quantized = head(z)

    ours = [head.head.codewords, *head.convolutions.parameters()]
    table, *filters = (own.detach().double().requires_grad_() for own in ours)
    latent = z.detach().double().requires_grad_()
    total, straight, commitment, codebook, codes = torch.zeros_like(latent), 0, 0, 0, []
    for i, (p, q) in enumerate(schedule):
        rest = latent - total.detach()
        pooled = rest if (p, q) == (h, w) else pooling(h, p) @ rest @ pooling(w, q).T
        found = (pooled.detach().movedim(1, -1)[..., None, :] - table).square().sum(-1).argmin(-1)
        codes.append(found.flatten(1))
        chosen = table[found].movedim(-1, 1)

        def enlarged(u, i=i, p=p, q=q):
            up = enlargement(p, h, upsampling == "bicubic") @ u @ enlargement(q, w, upsampling == "bicubic").T
            k = phi_of(i, len(schedule), phi)
            return (1 - ratio) * up + ratio * F.conv2d(up, filters[2 * k], filters[2 * k + 1], padding=1)

        total = total + enlarged(chosen)
        straight = straight + enlarged(pooled + (chosen - pooled).detach())
        a, b = (latent, total) if losses == "sums" else (pooled, chosen)
        commitment = commitment + (a - b.detach()).square().mean() / len(schedule)
        codebook = codebook + (b - a.detach()).square().mean() / len(schedule)
    assert torch.equal(quantized.codes[:, 0, 0], torch.cat(codes, dim=1))
    close(quantized.latent, total.float())
    close(quantized.losses["commitment"], commitment.float())
    close(quantized.losses["codebook"], codebook.float())
    upstream = torch.randn_like(z)
    passed = latent if estimate == "sum" else straight
    expected = torch.autograd.grad(commitment + codebook + (passed * upstream).sum(), [latent, table, *filters])
    loss = quantized.losses["commitment"] + quantized.losses["codebook"] + (quantized.latent * upstream).sum()
    for own, other in zip(torch.autograd.grad(loss, [z, *ours]), expected, strict=True):
        bound = max(1e-6, 2e-6 * float(other.abs().max()))
        torch.testing.assert_close(own, other.float(), rtol=0, atol=bound)


def test_weights_of_positions():
    """Losses of the sums take them as they are, the scales' own statistics their means over cells."""
    torch.manual_seed(0)
    head = MultiScaleQuantizer(vq(ema_decay=0.9), [1, 2, 4], phi=0)
    z, weight = torch.randn(2, 4, 4, 4), torch.rand(2, 4, 4)
    quantized = head(z, Context(weight=weight))
    latents = head.partial(quantized.codes, head.layout(4, 4))
    expected = torch.stack([((z - own).square() * weight[:, None]).mean() for own in latents]).mean()
    torch.testing.assert_close(quantized.losses["commitment"], expected)
    total = weight.mean((1, 2)).sum() + F.avg_pool2d(weight, 2).sum() + weight.sum()
    torch.testing.assert_close(quantized.stats["head.counts"].sum(), total)


def test_prefixes_and_layout():
    torch.manual_seed(0)
    head = MultiScaleQuantizer(FactorizedQuantizer([vq(8, 2), vq(9, 2)]), [1, 3, (4, 6)]).eval()
    z = torch.randn(2, 4, 4, 6)
    codes, layout = head.encode(z).codes, head.layout(4, 6)
    assert layout == Layout(((1, 1), (3, 3), (4, 6)), 2) and codes.shape == (2, 2, 1, 34)
    latents = head.partial(codes, layout)
    for n, latent in zip((1, 10, 34), latents, strict=True):
        assert torch.equal(head.lookup(codes[..., :n]), latent)  # a list of scales determines the grid
    with pytest.raises(ValueError, match="codes of 7 positions end within a scale"):
        head.lookup(codes[..., :7])
    errors = [(z - latent).square().mean() for latent in latents]
    assert errors[0] > errors[1] > errors[2]
    named = MultiScaleQuantizer(head.head)
    with pytest.raises(ValueError, match="several scales needs their layout, a tokenizer the images' size"):
        named.lookup(codes)
    assert named.lookup(codes[..., :1]).shape == (2, 4, 1, 1)


@pytest.mark.parametrize("scales, expected", [
    (10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),
    (5, [0, 1, 2, 2, 3]),
    (9, [0, 0, 1, 1, 2, 2, 2, 3, 3]),
    (12, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
    (14, [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]),
    (4, [0, 1, 2, 3]),
    (1, [0]),
])  # fmt: skip
def test_which_scale_has_which_convolution(scales, expected):
    assert [phi_of(i, scales, 4) for i in range(scales)] == expected
    assert [phi_of(i, scales, scales) for i in range(scales)] == list(range(scales))  # one each
    assert {phi_of(i, scales, 1) for i in range(scales)} == {0}


VAR_256, VAR_512 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
INFINITY_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)


@pytest.mark.parametrize("name, grid, expected", [
    ("var", 16, VAR_256),
    ("var", 32, VAR_512),
    ("infinity", 16, VAR_256),
    ("infinity", 32, VAR_512),
    ("infinity", 64, INFINITY_1024),
    ("var", 8, (1, 2, 3, 4, 5, 7, 8)),
    ("var", 24, ((1, 1), (2, 2), (3, 3), (5, 5), (7, 7), (10, 10), (14, 14), (18, 18), (24, 24))),
    ("var", (8, 32), ((1, 2), (1, 4), (2, 6), (2, 8), (3, 10), (3, 12), (4, 16), (5, 20), (7, 26), (8, 32))),
    ("var", (1, 1), (1,)),
    ("infinity", (36, 64), (1, 2, 3, 4, 6, (9, 12), (13, 16), (18, 24), (24, 32), (32, 48), (36, 64))),
    ("infinity_dynamic", 16, (1, 2, 4, 6, 8, 12, 16)),
    ("infinity_dynamic", 48, (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48)),
    ("infinity_dynamic", 8, (1, 2, 3, 4, 6, 8)),
    ("infinity_dynamic", (20, 16), (1, 2, 3, (5, 4), (10, 8), (15, 12), (20, 16))),
    ("infinity_dynamic", (26, 39), (1, 2, (2, 3), (4, 6), (6, 9), (10, 15), (14, 21), (18, 27), (22, 33), (26, 39))),
    ("infinity_dynamic", (80, 32), (1, 2, (5, 2), (10, 4), (15, 6), (20, 8), (25, 10), (30, 12), (40, 16), (50, 20),
                                    (65, 26), (80, 32))),
    ("infinity_patches", 32, (2, 4, 8, 12, 16, 24, 32)),
    ("infinity_patches", (40, 32), (2, 4, 6, (10, 8), (20, 16), (30, 24), (40, 32))),
])  # fmt: skip
def test_schedules(name, grid, expected):
    grid = (grid, grid) if isinstance(grid, int) else grid
    assert grids_of(name, *grid) == tuple((own, own) if isinstance(own, int) else own for own in expected)


def test_the_tokens_of_var():
    assert MultiScaleQuantizer(vq()).layout(16, 16).positions == (1, 680)
    assert MultiScaleQuantizer(vq()).layout(32, 32).positions == (1, 2240)


def make_tokenizer(head):
    size = {"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (), "dim": head.dim}
    return Tokenizer(CNNEncoder(**size), head, CNNDecoder(**size))


def test_sizes_of_images():
    """A list is for one size, and refuses others wherever images come in; a name is for all."""
    listed = make_tokenizer(MultiScaleQuantizer(vq(), [1, 2, 4])).eval()
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    codes = listed.tokenize(images)
    assert codes.shape == (1, 1, 1, 21) and listed.detokenize(codes).shape == (1, 3, 8, 8)
    message = "image size 16x8 gives a latent of 8x4, but this MultiScaleQuantizer accepts only 4x4"
    with pytest.raises(ValueError, match=message):
        listed.tokenize(torch.zeros(1, 3, 16, 8))
    with pytest.raises(ValueError, match=r"data.image_size=16 gives a latent of 8x8, but .* accepts only 4x4"):
        listed.grid(16, 16, "data.image_size=16")
    with pytest.raises(ValueError, match=r"schedule=\[1, 2, 4\] ends with 4x4, but the latent is 8x4"):
        listed.quantizer(torch.zeros(1, 4, 8, 4))
    named = make_tokenizer(MultiScaleQuantizer(vq())).eval()
    for height, width in ((8, 8), (16, 8)):
        codes = named.tokenize(torch.zeros(1, 3, height, width))
        assert named.detokenize(codes, (height, width)).shape == (1, 3, height, width)


def test_the_codebook_of_all_scales():
    torch.manual_seed(0)
    head = MultiScaleQuantizer(vq(9, restart=0.1), [1, 2, 4])
    assert torch.equal(head.table(0).values, head.head.codewords) and head.codebook_sizes == (9,)
    stats = head(torch.randn(2, 4, 4, 4)).stats
    assert stats["head.counts"].sum() == 2 * (1 + 4 + 16)
    rows, vectors = torch.arange(9) < 4, torch.randn(9, 4)
    assert torch.equal(head.revive(0, rows, vectors)["head.codewords"], rows)
    assert torch.equal(head.head.codewords[:4], vectors[:4])
    values = head.table(0).values[:5]
    smaller = head.with_table(0, Table(values, "l2", values))
    assert smaller.codebook_sizes == (5,)
    for own, other in zip(smaller.convolutions.parameters(), head.convolutions.parameters(), strict=True):
        assert torch.equal(own, other) and not own.requires_grad
    codes = torch.randint(5, (2, 1, 1, 21))
    assert torch.equal(smaller.lookup(codes), head.lookup(codes))
    assert native.describe(native.build(native.describe(head))) == native.describe(head)


def test_near_ties():
    head = MultiScaleQuantizer(vq(2, 1), [1, 2], phi=0).eval()
    head.head.codewords.data.copy_(torch.tensor([[-1.0], [1.0]]))
    z = torch.tensor([[1.0, -1.0], [1.0, -1.0 + 1e-7]]).view(1, 1, 2, 2)
    ours = head.encode(z).codes  # a mean of about 0: either code, and then what that leaves
    assert ours.flatten().tolist() == [1, 0, 0, 0, 0]
    theirs = torch.tensor([0, 1, 1, 1, 1]).view(1, 1, 1, 5)
    assert head.near_ties(z, ours, theirs).all()
    wrong = torch.tensor([0, 1, 1, 0, 1]).view(1, 1, 1, 5)
    assert head.near_ties(z, ours, wrong).flatten().tolist() == [True, True, True, False, True]


def test_convolutions_learn_whatever_the_codebook_learns_from():
    torch.manual_seed(0)
    head = MultiScaleQuantizer(vq(ema_decay=0.9), [1, 2, 4])
    assert head.loss_names == ("commitment", "codebook")
    head(torch.randn(2, 4, 4, 4)).losses["codebook"].backward()
    used = {phi_of(i, 3, 4) for i in range(3)}
    assert all((own.weight.grad is not None and own.weight.grad.any()) == (i in used)
               for i, own in enumerate(head.convolutions))  # fmt: skip


@pytest.mark.parametrize("dropout", ["batch", "sample"])
def test_dropout_of_scales(dropout):
    torch.manual_seed(0)
    head = MultiScaleQuantizer(vq(), [1, 2, 4], dropout=dropout)
    z = torch.randn(6, 4, 4, 4)
    codes = head(z).codes
    latents = torch.stack(head.partial(codes, head.layout(4, 4)))
    found = set()
    for _ in range(12):
        numbers = (latents - head(z).latent).abs().amax((2, 3, 4)).min(0)
        assert numbers.values.max() < 1e-5
        found |= set(numbers.indices.tolist())
    assert found == {0, 1, 2}


NESTINGS = {
    "var": lambda: MultiScaleQuantizer(vq(32, 8), [1, 2, 4]),
    "multi-scale of BSQ": lambda: infinity(BinaryQuantizer(8), [1, 2, 4]),
    "multi-scale of EMA": lambda: MultiScaleQuantizer(vq(32, 8, ema_decay=0.9, restart=0.1), [1, 2, 4]),
    "multi-scale of residual": lambda: MultiScaleQuantizer(ResidualQuantizer([vq(32, 8)], 2), [1, 2, 4]),
    "multi-scale of FQ": lambda: MultiScaleQuantizer(FactorizedQuantizer([vq(32, 4), SimVQ(32, 4)]), [1, 2, 4]),
    "residual of cosine": lambda: ResidualQuantizer([vq(32, 8, cosine=True)], 3),
    "residual of SimVQ": lambda: ResidualQuantizer([SimVQ(32, 8)], 3, dropout="sample"),
    "residual of multi-scale": lambda: ResidualQuantizer([MultiScaleQuantizer(vq(32, 8), [1, 4])], 2),
    "residual of FSQ": lambda: ResidualQuantizer([FSQ(5, 8)], 2, estimate="heads", factors=0.25),
    "multi-scale of IBQ": lambda: MultiScaleQuantizer(IBQ(32, 8), [1, 2, 4], phi=0, losses="steps", estimate="heads"),
    "FQ of residual": lambda: FactorizedQuantizer([ResidualQuantizer([vq(32, 4)], 2) for _ in range(2)]),
    "FQ of multi-scale": lambda: FactorizedQuantizer([MultiScaleQuantizer(vq(32, 4), [1, 4]) for _ in range(2)]),
    "dynamic of residual": lambda: DynamicQuantizer(
        ResidualQuantizer([vq(32, 8, ema_decay=0.9)], 2), FeatureRouter(8, groups=2)
    ),
}


@pytest.mark.parametrize("name", NESTINGS)
def test_nestings_learn(name):
    """A linear autoencoder around each explains two thirds of the variance of 16 images, and more."""
    torch.manual_seed(0)
    head = NESTINGS[name]().train()
    into, out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
    images = F.interpolate(torch.rand(16, 3, 2, 2) * 2 - 1, (4, 4), mode="bilinear")
    parameters = [*into.parameters(), *out.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-2)

    def error():
        head.eval()
        codes, keep = head.encode(into(images))
        latent = head.lookup(codes, head.layout(4, 4), keep)
        head.train()
        return F.mse_loss(out(latent), images).item()

    before = error()
    for _ in range(40):
        quantized = head(into(images))
        loss = F.mse_loss(out(quantized.latent), images) + sum(quantized.losses.values()) * 0.1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        head.update(quantized.stats or {})
    assert error() < 0.35 * min(before, images.var().item())
    folded = head.eval().for_inference()
    assert torch.equal(folded.encode(into(images)).codes, head.encode(into(images)).codes)


@pytest.mark.parametrize("make, message", [
    (lambda: MultiScaleQuantizer(vq(), "vqvae"), "one of var, infinity, .*_patches, or a list of sides, not 'vqv"),
    (lambda: MultiScaleQuantizer(vq(), []), r"schedule=\[\] must be sides"),
    (lambda: MultiScaleQuantizer(vq(), [0, 2]), r"schedule=\[0, 2\] must be sides, or pairs of sides"),
    (lambda: MultiScaleQuantizer(vq(), [1, 4, (2, 8)]), r"must go from coarse to fine, but \(2, 8\) follows \(4, 4\)"),
    (lambda: MultiScaleQuantizer(vq(), upsampling="nearest"), "upsampling must be bicubic or bilinear, not 'nearest'"),
    (lambda: MultiScaleQuantizer(vq(), phi=-1), "phi=-1 must not be negative"),
    (lambda: MultiScaleQuantizer(vq(), losses="steps"), "phi=4 convolutions would learn from nothing"),
    (lambda: MultiScaleQuantizer(vq(), [1, 2], factors=[1.0]), r"factors=\[1.0\] must be 2 numbers, one for each"),
    (lambda: MultiScaleQuantizer(MultiScaleQuantizer(vq())), "a MultiScaleQuantizer cannot quantize the maps of all"),
    (lambda: MultiScaleQuantizer(DynamicQuantizer(vq(), FeatureRouter(4, groups=2))),
     "a DynamicQuantizer cannot be a step of a MultiScaleQuantizer: the steps would choose different granularities"),
    (lambda: DynamicQuantizer(MultiScaleQuantizer(vq()), FeatureRouter(4, groups=2)),
     "a MultiScaleQuantizer cannot be the head of a dynamic quantizer: its codes are maps of several scales"),
    (lambda: DynamicQuantizer(ResidualQuantizer([MultiScaleQuantizer(vq(), [1, 4])], 2), EntropyRouter([2.8], patch=8)),
     "a ResidualQuantizer cannot be the head of a dynamic quantizer"),
    (lambda: FactorizedQuantizer([MultiScaleQuantizer(vq()), vq()]).layout(4, 4), "the heads of a latent of 4x4 have"),
])  # fmt: skip
def test_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_head_that_reads_more_than_the_latent():
    class Masked(VectorQuantizer):
        context_fields = frozenset({"mask"})

    with pytest.raises(ValueError, match="a Masked reads mask beside the latent, which the maps of a multi-scale"):
        MultiScaleQuantizer(Masked(4, 4))
