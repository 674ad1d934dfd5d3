"""Reconstructions on disk that are read by name: any source of listed images, or uncompressed tars."""

from pathlib import Path

from vistok.data.folder_listing import list_images
from vistok.data.image_paths import kind_of
from vistok.data.listings.array_file import ORDERED, StackedArray
from vistok.data.listings.folder_images import FolderImages
from vistok.data.listings.listing import Listing
from vistok.data.listings.opening import open_listing
from vistok.data.listings.tar_members import TarMembers
from vistok.data.tars import expand
from vistok.images.rgb import UnreadableImage


def open_images(source: str, argument: str) -> Listing:
    """Opens images that are read by name.

    Args:
        source: A source of ``image_paths``; of shards only uncompressed tars on disk. All images of a folder are read,
            whatever its subfolders are called.
        argument: The user's name of the argument, for messages.

    Raises:
        ValueError: There is no such source, it has no images, or it is a compressed tar.
    """
    kind, path = kind_of(source), Path(source).expanduser()
    if kind in ("folder", "split"):
        images: Listing = FolderImages(path, list_images(path))
    elif kind == "shards":
        try:
            images = TarMembers([Path(shard) for shard in expand(source, argument)])
        except UnreadableImage as error:
            raise ValueError(f"{argument}={source} is neither a folder, a tar nor an .npz file: {error}") from error
    else:
        images = open_listing(source, argument)
    if not len(images):
        raise ValueError(f"{argument}={source} has no images")
    if isinstance(images, StackedArray) and images.as_values:
        raise ValueError(f"{path}: {ORDERED} is {images.form}, not uint8 (n, h, w, 3)")
    return images
