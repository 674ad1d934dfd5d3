"""Images of shards: webdataset tars and parquet files."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from vistok.data.batches import Batch
from vistok.data.columns import check_columns
from vistok.data.data_module import ImageDataModule
from vistok.data.loaders import loader, rank_of
from vistok.data.random_masks import kind_of_mask
from vistok.data.shard_formats import columns_in, images_in
from vistok.data.shard_image import ShardContent
from vistok.data.skipped import Skipped, by_split
from vistok.data.streams import Place, ShardImages, ShardStream
from vistok.data.tars import Url, expand
from vistok.data.transforms import AtLeast, croppings
from vistok.data.value_ranges import FIRST, MEASURED, ValueRange, asked_range, unused_note, value_range
from vistok.distributed.collectives import gather_objects
from vistok.files import encodable
from vistok.images.crops import Transform
from vistok.images.decoding import MOST_PIXELS
from vistok.images.ranges import to_float
from vistok.images.reader import PixelForm, reader
from vistok.images.rgb import UnreadableImage
from vistok.images.rgb_view import RGBView, rgb_view
from vistok.images.values import read_values
from vistok.processes.node_files import node_value
from vistok.processes.patience import PATIENCE


class ShardDataModule(pl.LightningDataModule):
    """Batches (b, 3, H, W) of images in [-1, 1] from streams of unknown length; otherwise like ``ImageDataModule``.

    A checkpoint stores each reader's place after the batches that were trained on, not after those read ahead.

    Args:
        train: Endless training stream; None allows evaluation only.
        val: Images for validation during training, and those that ``eval.py`` scores.
        image_size: Height and width of the images in pixels.
        batch_size: Images in a batch of each process.
        num_workers: Number of processes that decode images; 0 decodes in the training process.
        about: Location of the images, for reports.
        max_unreadable: Largest share of unreadable images, in [0, 1], before an error.
        timeout: Seconds to wait for a batch before an error.
        form: Form in which images are read.
        view: Channels that networks trained on RGB look at; None for 1 or 3 channels.
        notes: Sentences about the images, printed before work starts.
    """

    num_test = None  # number of images that eval.py scores: unknown before they are read
    scored_sizes: Sequence[tuple[str, tuple[int, int]]] = ()  # and so are their sizes
    buckets = None

    def __init__(
        self,
        train: ShardStream | None,
        val: ShardImages,
        image_size: int,
        batch_size: int,
        num_workers: int = 0,
        about: str = "",
        max_unreadable: float = 0.01,
        timeout: float = PATIENCE,
        form: PixelForm = PixelForm(),
        view: RGBView | None = None,
        notes: Sequence[str] = (),
    ):
        super().__init__()
        self.timeout = timeout
        self.train, self.val = train, val
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        self.about, self.notes, self.form = about, notes, form
        self.view = view or RGBView(form.channels)
        self.batches = 0  # batches before a resume
        self.places = [Place(0, 0)] * max(1, num_workers)  # places of this process's workers
        self.names: list[str] = []  # names of the images in the last batch
        self.skipped, self.skipped_in = Skipped(max_unreadable), by_split(max_unreadable)

    @property
    def unreadable(self) -> set[str]:
        """Unreadable images and shards, each with the reason."""
        return self.skipped.reasons.union(*(skipped.reasons for skipped in self.skipped_in.values()))

    @property
    def sizes(self) -> str:
        """Numbers of shards for training and validation, as text.

        Raises:
            ValueError: There are no training shards.
        """
        count = len(self._train().urls)
        return f"{count:,} shard{'s' * (count > 1)} to train on, {len(self.val.urls):,} held out"

    def train_dataloader(self) -> DataLoader:
        batches = self.trainer.lightning_module.batches if self.trainer else self.batches
        if batches != self.batches:
            raise ValueError("run.resume= is of a run on other data: it has no positions in shards to resume from")
        stream = self._train().at(*rank_of(self.trainer), self.batches, self.places)
        return loader(stream, self.batch_size, self.num_workers, self.trainer, timeout=self.timeout)

    def val_dataloader(self) -> DataLoader:
        images = self.val.at(*rank_of(self.trainer))
        return loader(images, self.batch_size, self.num_workers, self.trainer, timeout=self.timeout)

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()

    def scored_names(self) -> list[str] | None:
        """Names of the images that ``eval.py`` scores; None for shards behind URLs, or compressed ones."""
        return self.val.names()

    def scored_batches(
        self,
        transforms: Sequence[Transform],
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        stored: bool = False,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """Batches that ``eval.py`` scores, as in ``ImageDataModule``.

        Batches already scored are read again and dropped.
        """
        images = self.val.with_transforms(transforms, stored).at(rank, world_size)
        batches = loader(images, batch_size or self.batch_size, self.num_workers, None, timeout=self.timeout)
        return itertools.islice(batches, start, None)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.names = batch.names
        if self.trainer.training:
            worker, shard, done = batch.place
            self.places[worker] = Place(shard, done)
            self.skipped_in["training"].note(batch, None)
            self.skipped_in["validation"].end_pass()
        else:
            self.skipped_in["validation"].note(batch, None)
        return batch._replace(images=to_float(batch.images))

    def note(self, batch: Batch, total: int | None = None) -> None:
        """Stores the names of a batch that ``eval.py`` scores, and reports unreadable images.

        Raises:
            UnreadableImage: Too many of the ``total`` images, or of those read so far, are unreadable.
        """
        self.names = batch.names
        self.skipped.note(batch, total)

    def state_dict(self) -> dict[str, Any]:
        return {
            "batches": self.trainer.lightning_module.batches,
            "places": gather_objects([list(place) for place in self.places]),
            "order": self._train().order(),
            "skipped": self.skipped_in["training"].state_dict(),  # each validation reads its full set
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rank, world_size = rank_of(self.trainer)
        places = state["places"]
        processes, workers = len(places), len(places[0])
        if (processes, workers) != (world_size, len(self.places)):
            raise ValueError(
                f"the checkpoint is of a run with processes={processes} data.num_workers={workers}, and resumes with "
                f"these only, not with processes={world_size} data.num_workers={self.num_workers}"
            )
        if state["order"] != self._train().order():
            raise ValueError("the checkpoint is of a run on other data.urls, or with another data.seed or data.block")
        self.batches = state["batches"]
        self.places = [Place(*place) for place in places[rank]]
        if "skipped" in state:  # earlier checkpoints do not have it
            self.skipped_in["training"].load_state_dict(state["skipped"])

    def _train(self) -> ShardStream:
        if self.train is None:
            raise ValueError("data.urls=null: there are no shards to train on")
        return self.train


def shards(
    urls: str | Sequence[str] | None,
    val_urls: str | Sequence[str],
    image_size: int,
    batch_size: int,
    crop: Literal["random", "adm", "center"] = "random",
    resize: int | None = None,
    min_crop: float = 0.8,
    flip: bool = False,
    block: int = 1000,
    num_workers: int = 0,
    seed: int = 0,
    max_unreadable: float = 0.01,
    decoder: Literal["pillow", "fast"] = "pillow",
    timeout: float = PATIENCE,
    max_pixels: int = MOST_PIXELS,
    channels: int = 3,
    range: Any = None,
    rgb_bands: Sequence[int] | None = None,
    mask: str | None = None,
    labels: bool = False,
    captions: bool = False,
    columns: Mapping[str, str] | None = None,
    resize_filter: Literal["bicubic", "nearest"] = "bicubic",
) -> ShardDataModule:
    """Data module of images in webdataset tar shards and parquet files, on disk or behind URLs.

    Args:
        urls: Training shards: one or several, with braces (``{000..011}``) or, for files, ``*``; None allows evaluation
            only.
        val_urls: Shards for validation and evaluation.
        image_size: Height and width of the crops in pixels.
        batch_size: Images in a batch of each process.
        crop: Crop of training images: ``random``, ``adm`` or ``center``, as in ``folder``.
        resize: Short side in pixels before a ``random`` or ``center`` crop; None means ``image_size``, 0 does not
            resize.
        min_crop: Smallest share of the short side that an ``adm`` crop covers, in (0, 1].
        flip: True mirrors each training image with probability 1/2.
        block: Images of a shard that each worker holds in memory and shuffles.
        num_workers: Number of processes that decode images.
        seed: Seed of the order and the augmentation.
        max_unreadable: Largest share of unreadable images, in [0, 1], before an error.
        decoder: Decoder of training images, as in ``folder``.
        timeout: Seconds to wait for a batch before an error.
        max_pixels: Number of pixels above which an image counts as unreadable.
        channels: Number of channels of the images, as in ``folder``.
        range: Values in the files that become -1 and 1, as in ``folder``; ``auto`` reads the first training shard.
        rgb_bands: Channels that networks trained on RGB look at, as in ``folder``.
        mask: Kind of the random masks, as in ``folder``.
        labels: True gives each image its label: ``KEY.cls`` beside it in a tar, a column of a parquet file. An image
            without one counts as unreadable.
        captions: True gives each image its caption: ``KEY.txt`` beside it, or a column; as labels.
        columns: Columns of parquet files: ``{image: ..., label: ..., caption: ...}``; None finds them (see
            ``image_columns``).
        resize_filter: Filter of training and validation crops, as in ``folder``.

    Raises:
        ValueError: A shard does not exist, the first parquet file has not the columns, or an argument is invalid.
    """
    training, center = croppings(crop, image_size, resize, min_crop, flip, resize_filter)
    large_enough = [AtLeast(image_size)] * (resize == 0)
    held_out = val_urls if isinstance(val_urls, str) else ", ".join(val_urls)
    train, about = None, held_out
    check_columns(columns)
    held_out_urls = expand(val_urls, "data.val_urls")
    train_urls = [] if urls is None else expand(urls, "data.urls")
    for url in dict.fromkeys((*train_urls[:1], held_out_urls[0])):
        columns_in(url, ShardContent.of(labels, captions, columns))
    asked, found, mask = asked_range(range), ValueRange(None), kind_of_mask(mask)
    first = (train_urls or held_out_urls)[0]
    if isinstance(asked, tuple):
        found = ValueRange(asked)
    elif asked or not isinstance(first, Url):
        found = ValueRange.of(node_value(f"range of {first} {asked}", lambda: _measured(first, columns, bool(asked))))
    form = PixelForm(channels, found.low_high)
    if urls is not None:
        read = reader(decoder, max_pixels, form)
        crops = large_enough + training
        train = ShardStream(train_urls, crops, seed, block, read, mask, labels, captions, columns)
        about = f"{urls if isinstance(urls, str) else ', '.join(urls)}, {held_out} held out"
    return ShardDataModule(
        train=train,
        val=ShardImages(
            held_out_urls,
            large_enough + center,
            reader("pillow", max_pixels, form),
            mask=mask,
            labels=labels,
            captions=captions,
            columns=columns,
        ),
        image_size=image_size,
        batch_size=batch_size,
        num_workers=num_workers,
        about=encodable(about),
        max_unreadable=max_unreadable,
        timeout=timeout,
        form=form,
        view=rgb_view(channels, rgb_bands),
        notes=[found.note] if found.note else [],
    )


def _measured(url: str, columns: Mapping[str, str] | None, auto: bool) -> ValueRange:
    """Range of the first images of a shard, or else a note if they use a small part of that of their type."""
    images = images_in(url, ShardContent.of(columns=columns))
    members = (image.open() for image in images if image.name and not image.problem)
    if auto:
        return value_range("auto", list(itertools.islice(members, MEASURED)), read_values)
    try:
        return ValueRange(None, unused_note(list(itertools.islice(members, FIRST)), read_values))
    except UnreadableImage:  # the shard is damaged, as the run will report
        return ValueRange(None)


Data = ImageDataModule | ShardDataModule
