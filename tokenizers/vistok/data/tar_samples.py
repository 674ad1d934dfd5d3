"""Images of a tar and their labels. Members of one sample follow each other, as webdataset writes them.

The key of a sample is webdataset's: the name up to the first dot. So ``a.jpg``, ``a.seg.png`` and ``a.cls`` are one
sample, whose image is ``a.jpg``. Where no image of a key is named so (``22.05.png``, ``22.06.png``), the dots are part
of the names, and each is an image with a label of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby, islice, starmap
from typing import NamedTuple, Protocol

from vistok.data.shard_image import ShardImage
from vistok.data.tars import CAPTION, LABEL, members_in
from vistok.images.decoding import image_extensions
from vistok.images.rgb import UnreadableImage

BESIDE = (LABEL, CAPTION)  # extensions of members that belong to an image
FIRST = 16  # members of a key among which the image of the sample must be, if there is one


class WithName(Protocol):
    """Member of a tar, with or without its bytes."""

    @property
    def name(self) -> str: ...


class TarSample(NamedTuple):
    """A sample of a tar."""

    image: WithName | None  # None for labels that follow no image of their key
    label: WithName | None
    passed_over: tuple[str, ...]  # other images and labels of the sample, which are not read
    caption: WithName | None = None


def images_in(url: str, captions: bool = True) -> Iterator[ShardImage]:
    """Images of a shard in order, with their labels and, if asked for, captions; without an image there is no name.

    Raises:
        UnreadableImage: The shard cannot be opened, or not read to its end.
    """
    known = image_extensions() | {LABEL} | ({CAPTION} if captions else set())
    problems: list[UnreadableImage] = []  # raised only after the last sample, which may be complete

    def members() -> Iterator[ShardImage]:
        try:
            yield from starmap(ShardImage, members_in(url, lambda name: extension_of(name) in known))
        except UnreadableImage as error:
            problems.append(error)

    for image, label, passed_over, caption in samples(members()):
        data = (image.name, image.data) if isinstance(image, ShardImage) else ("", b"")
        label, caption = (own.data if isinstance(own, ShardImage) else None for own in (label, caption))
        yield ShardImage(*data, label, passed_over, caption)
    if problems:
        raise problems[0]


def samples(members: Iterable[WithName]) -> Iterator[TarSample]:
    """Samples among the images and labels of a tar, given in their order."""
    for key, group in groupby(members, lambda member: key_of(member.name)):
        of_key = iter(group)
        first = list(islice(of_key, FIRST))
        of_key = chain(first, of_key)
        if any(_is_image(member, key) for member in first):
            yield _sample(of_key, lambda member, key=key: _is_image(member, key), key)
        else:
            for stem, own in groupby(of_key, lambda member: stem_of(member.name)):
                yield _sample(own, lambda member: extension_of(member.name) not in BESIDE, stem)


def _sample(members: Iterable[WithName], is_image: Callable[[WithName], bool], stem: str) -> TarSample:
    """The sample that consists of ``members``: the first image, its label and caption, and the names of the others."""
    image, others = None, []
    beside: dict[str, WithName] = {}  # label and caption, by their extension
    for member in members:
        extension = extension_of(member.name)
        if image is None and is_image(member):
            image = member
        elif extension in BESIDE and extension not in beside and stem_of(member.name) == stem:
            beside[extension] = member
        elif extension != CAPTION:
            others.append(member.name)
    if image is None and LABEL in beside:
        others.append(beside.pop(LABEL).name)
    return TarSample(image, beside.get(LABEL), tuple(others), beside.get(CAPTION) if image else None)


def _is_image(member: WithName, key: str) -> bool:
    return extension_of(member.name) not in BESIDE and stem_of(member.name) == key


def key_of(name: str) -> str:
    """Folder and file name up to its first dot."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def stem_of(name: str) -> str:
    """Name without its extension."""
    return name.rpartition(".")[0]


def extension_of(name: str) -> str:
    """Last dot of a name and what follows it, in lower case."""
    return f".{name.rpartition('.')[2].lower()}"
