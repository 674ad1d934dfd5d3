"""Large images in tiles: windows that pass the networks one by one, and the seams between them."""

from vistok.tiles.seams import Seams
from vistok.tiles.stitching import Tiled, Tiles

__all__ = ["Seams", "Tiled", "Tiles"]
