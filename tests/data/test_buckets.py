"""Aspect buckets: sizes, the bucket of an image, batches of one bucket each, and their order."""

import itertools
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from vistok.data import folder
from vistok.data.bucket_batches import BucketBatches, BucketSampler
from vistok.data.bucket_sizes import bucket_shapes, largest_shape, nearest_bucket
from vistok.images.crops import ADMCrop, ResizeShortSide
from vistok.images.rgb import UnreadableImage

BUCKETS = [[24, 48], [32, 32], [48, 24]]
OF = np.array([0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 0])  # bucket of each image: five of one, seven of the other


def batches(sampler, size, number):
    pairs = list(itertools.islice(sampler, size * number))
    return [pairs[i : i + size] for i in range(0, len(pairs), size)]


def multiples_of_8(height, width, name):
    if height % 8 or width % 8:
        raise ValueError(f"{name} is not a multiple of 8")


def test_nearest_in_the_logarithm_of_the_aspect_ratio():
    """Between 1:1 and 1:2 the border is at the root of 2, 1.4142."""
    sizes = [(100, 100), (1000, 1414), (1000, 1415), (1414, 1000), (1415, 1000), (10, 900), None]
    assert nearest_bucket(sizes, [(32, 32), (24, 48), (48, 24)]).tolist() == [0, 0, 1, 0, 2, 1, 0]
    assert nearest_bucket([(10, 20)], [(32, 32), (16, 64)]).tolist() == [0]  # as far from both: the first


def test_automatic_sizes():
    wide = [(32, 128), (40, 96), (48, 80), (56, 72)]
    tall = [(width, height) for height, width in reversed(wide)]
    assert bucket_shapes("auto", 64, multiples_of_8) == (*wide, (64, 64), *tall)
    shapes = bucket_shapes("auto", 256, multiples_of_8)
    assert len(shapes) == 17 and shapes[:3] == ((128, 512), (144, 448), (160, 400))
    assert max(height * width for height, width in shapes) == 256**2 and largest_shape("auto", 256) == (256, 256)
    assert largest_shape([[32, 32], [24, 48]], 32) == (24, 48) and largest_shape(None, 32) == (32, 32)


@pytest.mark.parametrize("asked, size, message", [
    ("auto", 40, "data.buckets=auto with data.image_size=40: 20x80 is not a multiple of 8"),
    ("auto", 42, "data.buckets=auto needs a data.image_size in multiples of 8, not 42"),
    ([[32, 36]], 32, r"data.buckets: \[32,36\] is not a multiple of 8"),
    ([[64, 48]], 32, r"\[64,48\] has 3,072 pixels, and data.image_size=32 1,024: they may differ by a factor of 2"),
    ([[32, 32], [32, 32]], 32, r"data.buckets has \[32,32\] twice"),
    *[(asked, 32, "must be null, auto or a list of") for asked in ("all", [], [32], [[32]], [[32, 32.0]], [[32, 0]])],
])  # fmt: skip
def test_sizes_that_are_refused(asked, size, message):
    with pytest.raises(ValueError, match=message):
        bucket_shapes(asked, size, multiples_of_8)


def test_every_image_once_an_epoch_of_its_bucket():
    """Batches of 2: five images complete 2 batches in the first epoch and 3 in the second, seven images 3 and 4."""
    found = batches(BucketSampler(OF, batch_size=2, seed=1), 2, 12)
    assert all(len({OF[index] for _, index in batch}) == 1 for batch in found)
    first = Counter(index for batch in found[:5] for _, index in batch)
    assert set(first.values()) == {1} and sorted(OF[list(first)]) == [0] * 4 + [1] * 6
    pairs = [pair for batch in found for pair in batch]
    assert sorted(pairs) == [(epoch, index) for epoch in (0, 1) for index in range(12)]
    of_buckets = [[OF[batch[0][1]] for batch in found[:5]], [OF[batch[0][1]] for batch in found[5:]]]
    assert [sorted(order) for order in of_buckets] == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]]
    assert any(order != sorted(order) for order in of_buckets)
    assert found == batches(BucketSampler(OF, 2, seed=1), 2, 12) != batches(BucketSampler(OF, 2, seed=2), 2, 12)


def test_fewer_images_than_a_batch_wait_for_further_epochs():
    found = batches(BucketSampler(np.array([1, 0, 1, 1, 1, 1, 1, 1, 1]), batch_size=4), 4, 9)
    assert [(0, 1), (1, 1), (2, 1), (3, 1)] in found[6:]  # eight images complete two batches an epoch
    assert all(epoch == i // 2 for i, batch in enumerate(found[:6]) for epoch, _ in batch)


def test_ranks_share_batches_of_one_bucket():
    one = batches(BucketSampler(OF, batch_size=6, seed=3), 6, 20)
    ranks = [batches(BucketSampler(OF, 2, 3, rank, 3), 2, 20) for rank in range(3)]
    assert [sum(own, []) for own in zip(*ranks, strict=True)] == one


@pytest.mark.parametrize("buckets", [OF, np.array([2, 0, 0, 0, 0])])
def test_goes_on_after_any_batch(buckets):
    full = batches(BucketSampler(buckets, batch_size=3, seed=5), 3, 26)
    for start in range(20):
        assert batches(BucketSampler(buckets, 3, 5, start=start), 3, 6) == full[start : start + 6]


@pytest.mark.parametrize("world_size", [1, 2, 3, 20])
def test_validation_reads_each_image_once(world_size):
    ranks = [BucketBatches(OF, 2, rank, world_size) for rank in range(world_size)]
    found = [batch for own in ranks for batch in own]
    assert sorted(index for batch in found for _, index in batch) == list(range(12))
    assert all(len({OF[index] for _, index in batch}) == 1 and len(batch) <= 2 for batch in found)
    for own in ranks:
        assert own.starts == list(itertools.accumulate(map(len, own), initial=0))


def test_crops_of_a_size_that_is_no_square():
    """Halved while twice too large on both sides, resized to cover, then the centre."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 100, 3), dtype=np.uint8))
    expected = image.resize((50, 20), Image.BOX).resize((40, 16), Image.BICUBIC).crop((4, 0, 36, 16))
    assert np.array_equal(np.array(ADMCrop((16, 32))(image, rng)), np.array(expected))
    assert ResizeShortSide((16, 32))(image, rng).size == (40, 16)
    assert ResizeShortSide((32, 16))(image, rng).size == (80, 32)
    sizes = {ADMCrop((24, 48), 0.5, random=True)(image, rng).size for _ in range(9)}
    assert sizes == {(48, 24)}


@pytest.fixture
def shapes_of_photos(tmp_path):
    """Six wide, square and tall images, of which one is wide as it is stored, but tall as EXIF says."""
    for i, size in enumerate([(96, 48), (60, 64), (40, 80)] * 2):
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        Image.new("RGB", size, (40 * i, 0, 0)).save(tmp_path / f"{i}.png", exif=exif)
    return tmp_path


def opened(root, **options):
    data = folder(str(root), 32, 2, val_count=1, buckets=BUCKETS, **options)
    data.buckets.choose(32, multiples_of_8)
    return data


def test_an_image_has_the_size_of_its_bucket(shapes_of_photos):
    data = opened(shapes_of_photos, mask="box", crop="random", flip=True)
    known = {"0.png": 0, "1.png": 1, "2.png": 2, "3.png": 2, "4.png": 1, "5.png": 2}
    assert data.train_buckets.tolist() == [known[name] for name in data.train.names()]
    images = data.buckets.images(data.train, data.train_buckets, True)
    for i, name in enumerate(data.train.names()):
        sample = images[0, i]
        assert list(sample.image.shape[1:]) == list(sample.mask.shape[1:]) == BUCKETS[known[name]]
    (batch,) = data.val_dataloader()
    assert list(batch.images.shape[2:]) == BUCKETS[known[data.val.names()[0]]]


def test_what_replaces_a_broken_image_has_its_size(shapes_of_photos):
    data = opened(shapes_of_photos, max_unreadable=0.5)
    broken = data.train.names()[0]
    (shapes_of_photos / broken).write_bytes((shapes_of_photos / broken).read_bytes()[:-30])  # the header remains
    sample = data.buckets.images(data.train, data.train_buckets, True)[0, 0]
    assert sample.name != broken and len(sample.skipped) == 1
    assert list(sample.image.shape[1:]) == BUCKETS[data.train_buckets[0]]


def test_images_without_a_known_size(shapes_of_photos):
    for path in shapes_of_photos.glob("[23].png"):
        path.write_bytes(b"no image")
    data = opened(shapes_of_photos)
    with pytest.raises(UnreadableImage, match=r"needs the sizes of the images, but those of \d of 5 cannot be read"):
        _ = data.train_buckets
    data = opened(shapes_of_photos, max_unreadable=0.5)
    counted = dict(zip(data.train.names(), data.train_buckets, strict=True))
    assert {counted.get(name, 1) for name in ("2.png", "3.png")} == {1}  # as squares


def test_resize_is_refused(shapes_of_photos):
    with pytest.raises(ValueError, match="data.resize=48 is not for data.buckets"):
        opened(shapes_of_photos, resize=48)


def test_a_checkpoint_of_other_buckets_is_not_gone_on_with(shapes_of_photos):
    states = []
    for buckets in (BUCKETS, BUCKETS[1:], None):
        data = folder(str(shapes_of_photos), 32, 2, val_count=1, buckets=buckets)
        if buckets:
            data.buckets.choose(32, multiples_of_8)
        states.append((data, {"batches": 0, "seen": 0, "images": 5, "seed": 0}))
        if buckets:
            states[-1][1]["buckets"] = data.buckets.digest(data.train_buckets)
    for (data, _), (_, state) in itertools.permutations(states, 2):
        with pytest.raises(ValueError, match="a run with other data.buckets, or on images of other sizes"):
            data.load_state_dict(state)
