"""Listing of a folder that one process of a node makes and all of them map."""

from collections.abc import Sequence
from pathlib import Path

from vistok.data.folder_listing import image_blocks
from vistok.data.name_sorting import sorted_names
from vistok.data.name_table import NameTable
from vistok.processes.node_files import node_file


def kept_listing(root: Path, subfolder: str = "", also: Sequence[str] = ()) -> NameTable:
    """Image files as ``list_images`` finds them, in a file that is memory-mapped and does not outlive the launch.

    Errors are those of ``list_images`` and ``node_file``.
    """

    def write(path: Path) -> None:
        NameTable.write(path, sorted_names(image_blocks(root, subfolder, also), path.parent))

    return NameTable.open(node_file(f"listing {root.absolute()} {subfolder!r} {sorted(also)}", write))
