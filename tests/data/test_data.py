"""Order and crops of images."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.data import folder, sample
from vistok.data.batches import Batch
from vistok.data.sample import recolored, reoriented
from vistok.data.sampler import EndlessSampler, StrideSampler
from vistok.images.crops import ADMCrop, CenterCrop, ResizeShortSide, to_tensor
from vistok.images.ranges import to_float
from vistok.images.rgb import UnreadableImage


def take(sampler, n):
    return list(itertools.islice(sampler, n))


def test_each_epoch_has_every_image_once_in_its_own_order():
    pairs = take(EndlessSampler(10, batch_size=4, seed=1), 30)
    epochs = [[index for epoch, index in pairs if epoch == e] for e in range(3)]
    assert all(sorted(order) == list(range(10)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert pairs == take(EndlessSampler(10, batch_size=4, seed=1), 30)
    assert pairs != take(EndlessSampler(10, batch_size=4, seed=2), 30)


def test_ranks_share_the_global_batch():
    one = take(EndlessSampler(10, batch_size=6), 24)
    ranks = [take(EndlessSampler(10, batch_size=3, rank=r, world_size=2), 12) for r in (0, 1)]
    for batch in range(4):
        of_both = [*ranks[0][3 * batch : 3 * batch + 3], *ranks[1][3 * batch : 3 * batch + 3]]
        assert of_both == one[6 * batch : 6 * batch + 6]


def test_resuming_goes_on_where_it_stopped():
    assert take(EndlessSampler(10, batch_size=4, start=3), 8) == take(EndlessSampler(10, batch_size=4), 20)[12:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_sees_each_image_once(world_size):
    seen = [index for rank in range(world_size) for _, index in StrideSampler(5, rank, world_size)]
    assert sorted(seen) == list(range(5))


def test_grey_levels_survive():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    pixels = to_tensor(Image.fromarray(levels))
    assert pixels.shape == (3, 16, 16) and torch.equal(pixels[0].flatten(), torch.arange(256, dtype=torch.uint8))
    floats = to_float(pixels)
    assert floats.min() == -1 and floats.max() == 1


@pytest.mark.parametrize("size", [(500, 375), (333, 1000), (64, 65), (40, 40)])
def test_adm_crop_against_its_definition(size):
    """Halve while twice too large, then bicubic, then the centre."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = image
    while min(expected.size) >= 128:
        expected = expected.resize((expected.size[0] // 2, expected.size[1] // 2), resample=Image.BOX)
    scale = 64 / min(expected.size)
    expected = expected.resize((round(expected.size[0] * scale), round(expected.size[1] * scale)), Image.BICUBIC)
    pixels = np.array(expected)
    top, left = (pixels.shape[0] - 64) // 2, (pixels.shape[1] - 64) // 2
    assert np.array_equal(np.array(ADMCrop(64)(image, rng)), pixels[top : top + 64, left : left + 64])


def test_random_adm_crops_vary_in_scale_and_place():
    image = Image.fromarray(np.linspace(0, 255, 200 * 300 * 3).reshape(200, 300, 3).astype(np.uint8))
    crop = ADMCrop(64, 0.8, random=True)
    crops = [np.array(crop(image, np.random.default_rng(i))) for i in range(8)]
    assert all(c.shape == (64, 64, 3) for c in crops)
    assert len({c.tobytes() for c in crops}) == 8
    assert np.array_equal(crops[0], np.array(crop(image, np.random.default_rng(0))))


def test_resize_and_crop():
    image = Image.new("RGB", (300, 200))
    assert ResizeShortSide(50)(image, None).size == (75, 50)
    assert CenterCrop(64)(image, None).size == (64, 64)


def test_folder_finds_images_everywhere_and_splits_the_same_way(photos):
    data = folder(str(photos), image_size=32, batch_size=4, val_count=3)
    assert len(data.test) == 12 and len(data.train) == 9 and len(data.val) == 3
    assert data.test.names() == sorted(data.test.names()) and "more/00.jpg" in data.test.names()
    assert set(data.train.names()) | set(data.val.names()) == set(data.test.names())
    again = folder(str(photos), image_size=32, batch_size=4, val_count=3)
    assert again.val.names() == data.val.names()


def test_folder_with_a_split_of_its_own(photos):
    (photos / "train").mkdir()
    (photos / "val").mkdir()
    for path in sorted(photos.glob("*.png")):
        path.rename(photos / ("val" if path.stem < "03" else "train") / path.name)
    data = folder(str(photos), image_size=32, batch_size=2)
    assert all(name.startswith("train/") for name in data.train.names())
    assert all(name.startswith("val/") for name in data.val.names()) and data.test.names() == data.val.names()


def test_batches(photos):
    data = folder(str(photos), image_size=32, batch_size=5)
    batches = list(data.test_dataloader())
    assert [len(batch.images) for batch in batches] == [5, 5, 2]
    assert batches[0].images.dtype == torch.uint8 and batches[0].images.shape[1:] == (3, 32, 32)
    assert [name for batch in batches for name in batch.names] == data.test.names()


def test_augmentation_depends_on_seed_epoch_and_index_only(photos):
    def item(seed, epoch, index):
        return folder(str(photos), 32, 1, crop="adm", flip=True, seed=seed, val_count=1).train[epoch, index].image

    assert torch.equal(item(0, 0, 3), item(0, 0, 3))
    assert not torch.equal(item(0, 0, 3), item(0, 1, 3))


@pytest.mark.parametrize("arguments, message", [
    ({"resize": 0, "image_size": 64}, r"(?s)has 56x40 pixels, smaller than the crop of 64"),
    ({"crop": "five"}, "data.crop must be one of random, adm, center, not 'five'"),
    ({"resize": 16}, "data.resize=16 is smaller than the crop of 32"),
    ({"val_count": 12}, "data.val_count=12 leaves none of 12 images"),
])  # fmt: skip
def test_folder_arguments_that_do_not_fit(photos, arguments, message):
    with pytest.raises(ValueError, match=message):
        folder(str(photos), **{"image_size": 32, "batch_size": 2} | arguments)


def test_folders_without_images(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        folder(str(tmp_path / "nowhere"), 32, 2)
    with pytest.raises(ValueError, match="no images found in"):
        folder(str(tmp_path), 32, 2)


def trainer(batches=0, world_size=1):
    module = SimpleNamespace(batches=batches)
    return SimpleNamespace(lightning_module=module, global_rank=0, world_size=world_size, accelerator=None)


def test_a_resumed_run_goes_on_after_the_images_it_has_seen(photos):
    """Also with another batch, or on more processes."""
    first = folder(str(photos), 32, 2, val_count=3)
    first.trainer = trainer(batches=6)
    second = folder(str(photos), 32, 3, val_count=3)
    second.trainer = trainer(batches=6, world_size=2)
    second.load_state_dict(first.state_dict())
    assert take(second.train_dataloader().sampler, 3) == take(EndlessSampler(9, 1), 15)[12:]
    second.trainer.lightning_module.batches = 8
    skipped = {"reasons": [], "counts": [[0, 0]]}
    assert second.state_dict() == {"batches": 8, "seen": 24, "images": 9, "seed": 0, "skipped": skipped}


@pytest.mark.parametrize("arguments", [{"val_count": 2}, {"val_count": 3, "seed": 1}])
def test_a_run_on_other_images_is_not_gone_on_with(photos, arguments):
    first = folder(str(photos), 32, 2, val_count=3)
    first.trainer = trainer(batches=6)
    with pytest.raises(ValueError, match="the checkpoint is of a run on 9 images with run.seed=0, not on"):
        folder(str(photos), 32, 2, **arguments).load_state_dict(first.state_dict())


BROKEN = b"\x89PNG\r\n\x1a\nbroken"


def test_a_broken_image_is_replaced_in_training_and_left_out_in_evaluation(photos):
    (photos / "01.png").write_bytes(BROKEN)
    data = folder(str(photos), 32, 2, val_count=1, crop="center")
    index = data.train.names().index("01.png")
    sample, next_one = data.train[0, index], data.train[0, index + 1]
    assert torch.equal(sample.image, next_one.image) and sample.name == next_one.name == "02.png"
    assert len(sample.skipped) == 1 and sample.skipped[0].startswith(f"{photos}/01.png: ")
    batches = list(data.test_dataloader())
    assert sum(len(batch.images) for batch in batches) == 11
    assert [reason for batch in batches for reason in batch.skipped] == list(sample.skipped)


def test_broken_images_are_named_once_and_limited(photos, capsys):
    (photos / "01.png").write_bytes(BROKEN)
    data = folder(str(photos), 32, 12, max_unreadable=0.1)
    (batch,) = data.test_dataloader()
    for _ in range(2):
        data.note(batch, total=12)
    assert capsys.readouterr().out.count("01.png: UnidentifiedImageError") == 1
    (photos / "02.png").write_bytes(BROKEN)
    (batch,) = data.test_dataloader()
    with pytest.raises(UnreadableImage, match=r"(?s)2 of 12 images cannot be read, more than .*=0.1 of them.*01.png"):
        data.note(batch, total=12)


def test_training_and_validation_are_counted_apart(photos):
    """Two bad files of 400 to train on are none of 20 held out."""
    data = folder(str(photos), 32, 2, val_count=1)
    data.trainer = trainer(batches=0)
    data.train, data.val = range(400), range(20)

    def meet(training, *skipped):
        data.trainer.training = training
        data.on_after_batch_transfer(
            Batch(torch.zeros(10, 3, 1, 1, dtype=torch.uint8), names=["x"] * 10, skipped=skipped), 0
        )

    meet(True, "a: broken", "b: broken")
    meet(False)
    meet(True, "c: broken")
    assert data.unreadable == {"a: broken", "b: broken", "c: broken"}
    with pytest.raises(
        UnreadableImage, match=r"(?s)1 of 20 validation images cannot be read, .*=0.01 of.*\n  z: broken"
    ):
        meet(False, "z: broken")
    with pytest.raises(
        UnreadableImage, match=r"(?s)5 of 400 training images cannot be read.*\n  a: broken\n  b: broken"
    ):
        meet(True, "d: broken", "e: broken")


def test_what_could_not_be_read_is_in_the_checkpoint(photos, tmp_path):
    """Else a run that is resumed often is never stopped. Names need not be UTF-8."""
    first, second = folder(str(photos), 32, 2, val_count=3), folder(str(photos), 32, 2, val_count=3)
    first.trainer = second.trainer = trainer(batches=6)
    first.skipped_in["training"].note(Batch(torch.zeros(1, 3, 1, 1), names=["x"], skipped=["\udcff.png: broken"]), None)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.unreadable == {"\udcff.png: broken"} and second.skipped_in["training"].count == 2
    second.load_state_dict({name: value for name, value in first.state_dict().items() if name != "skipped"})


def test_a_folder_of_broken_images(photos):
    for path in (p for p in photos.rglob("*") if p.is_file()):
        path.write_bytes(BROKEN)
    data = folder(str(photos), 32, 2, val_count=1)
    with pytest.raises(UnreadableImage, match="11 images in a row cannot be read"):
        data.train[0, 0]


def test_sample_photos():
    data = sample(image_size=64, batch_size=2)
    assert len(data.val) == 70  # 9 x 5 places in coffee at 192x128, 5 x 5 in astronaut
    image = data.val[0, 0].image
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    first, again, later = (data.train[key].image for key in ((3, 5), (3, 5), (4, 5)))
    assert torch.equal(first, again) and not torch.equal(first, later)
    assert {name.split()[0] for name in data.val.names()} == {"coffee", "astronaut"}


def test_sample_photos_are_not_larger_than_they_are():
    with pytest.raises(ValueError, match="photos of 300 pixels and up: data.image_size=512 does not fit"):
        sample(image_size=512, batch_size=2)


def test_orientations():
    square = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    seen = {tuple(reoriented(square, np.random.default_rng(i)).flatten().tolist()) for i in range(100)}
    assert len(seen) == 8 and all(sorted(pixels) == list(range(12)) for pixels in seen)


def test_recolouring_is_one_increasing_map_for_each_channel():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, 16, 16)
    changed = recolored(levels, np.random.default_rng(0)).flatten(1).long()
    assert (changed.diff(dim=1) >= 0).all() and len({tuple(channel.tolist()) for channel in changed}) == 3
    assert (changed[:, 127] - 127).abs().max() <= 20
