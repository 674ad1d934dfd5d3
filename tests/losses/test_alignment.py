"""The representation losses against the authors' values and by hand."""

import math
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from vistok.losses import ContrastiveAlignment, FeaturePrediction, PatchAlignment, Teacher, info_nce

ROOT = Path(__file__).parents[2]


def test_fqgan(golden, close):
    values = golden("heads", "fqgan_infonce")
    predicted = values["pred"].requires_grad_()
    loss = info_nce(predicted[:, 0], values["teacher"][:, 0])  # only the class token counts
    close(loss, values["loss.infonce"])
    (gradient,) = torch.autograd.grad(loss, predicted)
    close(gradient, values["grad.pred"])


def test_by_hand():
    teacher = torch.eye(2)
    assert info_nce(torch.ones(2, 2), teacher).item() == pytest.approx(math.log(2))
    # each cosine is 1 with its own and 0 with the other
    assert info_nce(3 * teacher, teacher).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_the_teacher_gets_no_gradient():
    predicted, teacher = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    info_nce(predicted, teacher).backward()
    assert teacher.grad is None and predicted.grad is not None


def test_autocast_does_not_round_it():
    torch.manual_seed(0)
    predicted, teacher = torch.randn(2, 8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert (predicted @ teacher.T).dtype == torch.bfloat16
        value = info_nce(predicted, teacher)
    assert value == info_nce(predicted, teacher)


PROGRAM = """
import sys
import torch
import torch.distributed as dist
from vistok.losses.alignment import info_nce

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
images, teacher, weight = torch.load(sys.argv[1])
images, teacher = images.chunk(world)[rank], teacher.chunk(world)[rank]
results = {}
for gather in (True, False):
    w = weight.clone().requires_grad_()
    loss = info_nce(images @ w, teacher, gather)
    loss.backward()
    for tensor in (loss.detach(), w.grad):  # the average over ranks, as DDP takes it
        dist.all_reduce(tensor)
        tensor /= world
    results[gather] = (loss.detach(), w.grad)
if rank == 0:
    torch.save(results, sys.argv[2])
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_negatives_of_all_processes(python, tmp_path, world):
    """Value and gradient of a shared weight are those of one process with the whole batch, or, ungathered, of each."""
    torch.manual_seed(0)
    images, teacher, weight = torch.randn(8, 5), torch.randn(8, 6), torch.randn(5, 6)
    torch.save((images, teacher, weight), tmp_path / "inputs.pt")
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = [python, "-m", "torch.distributed.run", f"--nproc-per-node={world}", "--standalone"]
    files = [str(tmp_path / name) for name in ("program.py", "inputs.pt", "results.pt")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tokenizers"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *files], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = torch.load(tmp_path / "results.pt")

    weight.requires_grad_()
    whole = info_nce(images @ weight, teacher)
    parts = [info_nce(x @ weight, t) for x, t in zip(images.chunk(world), teacher.chunk(world), strict=True)]
    local = torch.stack(parts).mean()
    assert abs(whole - local) > 0.1
    for gather, expected in ((True, whole), (False, local)):
        (gradient,) = torch.autograd.grad(expected, weight, retain_graph=True)
        torch.testing.assert_close(results[gather], (expected.detach(), gradient), rtol=0, atol=1e-6)


@pytest.mark.parametrize("arguments, count", [
    ({"width": 1024}, 39_115_776),  # dual VQ-16
    ({"width": 1024, "grid": 32}, 39_902_208),  # dual VQ-8
    ({"width": 384}, 5_575_296),  # triple VQ-16, published as 5.58 M
    ({"width": 768}, 22_062_336),  # triple VQ-16, published as 22.06 M
])  # fmt: skip
def test_published_parameter_counts(arguments, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in FeaturePrediction(8, **arguments).parameters()) == count


@pytest.mark.parametrize("name, head, part, width, output", [
    ("fqgan_dual", "feat_pred_head", "sem", 48, "feat"),
    ("fqgan_triple", "mid_sem_feat_pred", "sem_mid", 16, "feat_mid"),
    ("fqgan_triple", "high_sem_feat_pred", "sem_high", 24, "feat_high"),
])  # fmt: skip
def test_predictors_of_whole_models(family, close, name, head, part, width, output):
    theirs, io = family(name)
    weights = {}
    for key, tensor in theirs.items():
        if not key.startswith(f"{head}."):
            continue
        key = key.removeprefix(f"{head}.").replace("ln_pre", "norm_in").replace("ln_post", "norm_out")
        key = key.replace("attn.in_proj_", "attention.qkv.").replace("attn.out_proj", "attention.out")
        key = key.replace("mlp.c_fc", "mlp_in").replace("mlp.c_proj", "mlp_out").replace("transformer", "blocks")
        weights[re.sub(r"\.ln_(\d)\.", r".norm\1.", key)] = tensor
    weights["class_token"] = weights.pop("class_embedding")[0]
    positions = weights.pop("positional_embedding")
    weights["class_position"], weights["positions.table"] = positions[0], positions[1:].T.unflatten(1, (4, 4))
    predictor = FeaturePrediction(8, width, grid=4, depth=2, heads=4)
    predictor.load_state_dict(weights)
    close(predictor(io[f"quantized.{part}"]), io[output][:, 0])


@pytest.fixture(scope="module")
def teacher():
    return Teacher("test_vit", "random", size=64)


def test_contrastive_alignment(teacher):
    """It is InfoNCE of what the predictor makes of its own part, and trains the predictor and that part only."""
    torch.manual_seed(0)
    loss = ContrastiveAlignment(teacher, dim=6, num_parts=3, part=1, grid=4, depth=1)
    latent, images = torch.randn(4, 6, 4, 4, requires_grad=True), torch.rand(4, 3, 32, 32) * 2 - 1
    value = loss(latent, images)
    torch.testing.assert_close(value, info_nce(loss.predictor(latent[:, 2:4]), teacher(images)))
    value.backward()
    assert latent.grad[:, 2:4].any() and not latent.grad[:, :2].any() and not latent.grad[:, 4:].any()
    trained = {name for name, p in loss.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in loss.named_parameters() if p.grad is not None}
    assert trained and all(name.startswith("predictor.") for name in trained)
    assert loss.predictor(torch.randn(2, 2, 3, 5)).shape == (2, teacher.dim)  # of another size


def test_it_learns_which_image_is_which(teacher):
    torch.manual_seed(0)
    loss = ContrastiveAlignment(teacher, dim=4, grid=2, depth=1)
    latent, images = torch.randn(6, 4, 2, 2), torch.rand(6, 3, 1, 1).expand(-1, -1, 32, 32) * 2 - 1
    optimizer = torch.optim.Adam([p for p in loss.parameters() if p.requires_grad], 1e-3)
    least = info_nce(teacher(images), teacher(images))  # a prediction equal to its target
    before = loss(latent, images)
    for _ in range(40):
        optimizer.zero_grad()
        loss(latent, images).backward()
        optimizer.step()
    assert before > math.log(6) - 0.05
    assert loss(latent, images) < (before + least) / 2


def test_patch_alignment():
    torch.manual_seed(0)
    teacher = Teacher("test_vit", "random", size=64, patches=True)
    loss = PatchAlignment(teacher, dim=8, num_parts=2, part=1, hidden=16)
    latent, images = torch.randn(2, 8, 4, 4), torch.rand(2, 3, 32, 32) * 2 - 1
    features = teacher(images)
    predicted = loss.predictor(latent[:, 4:]).flatten(2).transpose(1, 2)
    cosines = (predicted * features).sum(2) / predicted.norm(dim=2) / features.norm(dim=2)
    torch.testing.assert_close(loss(latent, images), 1 - cosines.mean())
    loss.predictor = nn.Identity()  # a latent that holds the features themselves, and a finer one
    whole = features.transpose(1, 2).unflatten(2, (4, 4)).repeat(1, 2, 1, 1)
    assert loss(whole, images) == pytest.approx(0, abs=1e-6)
    finer = whole.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert loss(finer, images) < 0.1
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(finer.bfloat16(), images) < 0.1


@pytest.mark.parametrize("arguments, message", [
    ({"num_parts": 4}, "num_parts=4 does not divide the latent's 6 channels"),
    ({"num_parts": 2, "part": 2}, "part=2 must be one of 0 to 1"),
    ({"heads": 5}, "heads=5 does not divide the 64 channels"),
])  # fmt: skip
def test_wrong_arguments(teacher, arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveAlignment(teacher, dim=6, **arguments)


def test_each_loss_wants_its_own_features(teacher):
    with pytest.raises(ValueError, match="patches=False"):
        PatchAlignment(teacher, dim=4)
    with pytest.raises(ValueError, match="patches=True"):
        ContrastiveAlignment(Teacher("test_vit", "random", patches=True), dim=4)
