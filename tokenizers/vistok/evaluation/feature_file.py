"""Features of single images on disk, for metrics that the sums over all images do not determine."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vistok import files
from vistok.metrics.feature_rows import FeatureRows

FLOAT = np.dtype("<f4")


class FeatureFile:
    """Rows of float32 features, one for each image, appended batch by batch; memory does not grow with their number.

    The i-th row belongs to the i-th image of its process. Reads use no memory map, whose pages would count as memory of
    the process.

    Args:
        path: Path of the file; it is created by the first batch.
        columns: Number of features by name, in the order within a row.
    """

    def __init__(self, path: Path, columns: Mapping[str, int]):
        self.path, self.columns = path, dict(columns)
        ends = np.cumsum([0, *self.columns.values()]).tolist()
        self.starts = dict(zip(self.columns, ends, strict=False))
        self.row_bytes = ends[-1] * FLOAT.itemsize

    def __len__(self) -> int:
        """Number of complete rows."""
        return self.path.stat().st_size // self.row_bytes if self.path.is_file() else 0

    def append(self, features: Mapping[str, Tensor]) -> None:
        """Appends a row for each image of a batch; ``features`` has a (b, d) tensor for every column."""
        rows = torch.cat([features[name].float().cpu() for name in self.columns], 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(rows.numpy().astype(FLOAT).tobytes())

    def truncate(self, count: int) -> None:
        """Drops all rows but the first ``count``, as a resumed evaluation does with rows that it computes again.

        Raises:
            ValueError: The file has fewer rows.
        """
        if len(self) < count:
            raise ValueError(
                f"{self.path} has the features of {len(self)} images, not of {count}, as its .state file says"
            )
        if self.path.is_file():
            os.truncate(self.path, count * self.row_bytes)

    def flush(self) -> None:
        """Forces all rows to disk: a saved state must never be ahead of them."""
        if self.path.is_file():
            files.flush(self.path)

    def read(self, name: str, rows: Sequence[int]) -> Tensor:
        """Features of a column at some rows: (len(rows), d) float32."""
        start, size = self.starts[name] * FLOAT.itemsize, self.columns[name] * FLOAT.itemsize
        content = bytearray(len(rows) * size)
        view = memoryview(content)
        descriptor = os.open(self.path, os.O_RDONLY) if len(rows) else -1
        try:
            for i, row in enumerate(rows):
                read = os.preadv(descriptor, [view[i * size : (i + 1) * size]], row * self.row_bytes + start)
                if read < size:
                    raise ValueError(f"{self.path} ends before the features of image {row}")
        finally:
            if len(rows):
                os.close(descriptor)
        return torch.from_numpy(np.frombuffer(content, FLOAT).reshape(len(rows), self.columns[name]))


def places_by_name(names_of_ranks: Sequence[Sequence[str]]) -> np.ndarray:
    """Rank and row of each image, in the order of the images' names: (n, 2) int64.

    Args:
        names_of_ranks: Names of each rank's images, in the order of their rows.
    """
    places = [(rank, row) for rank, names in enumerate(names_of_ranks) for row in range(len(names))]
    places.sort(key=lambda place: names_of_ranks[place[0]][place[1]])
    return np.array(places, dtype=np.int64).reshape(-1, 2)


def rows_by_place(
    files_of_ranks: Sequence[FeatureFile], places: np.ndarray, column: str, device: torch.device | str
) -> FeatureRows:
    """A column of all ranks' files at ``places`` (n, 2) of ranks and rows; every rank can read all of the files."""
    dim = files_of_ranks[0].columns[column]

    def read(chosen: Sequence[int]) -> Tensor:
        features = torch.empty(len(chosen), dim)
        ranks, rows = places[np.asarray(chosen, dtype=np.int64)].T
        for rank, file in enumerate(files_of_ranks):
            own = np.flatnonzero(ranks == rank)
            if len(own):
                features[torch.from_numpy(own)] = file.read(column, rows[own].tolist())
        return features

    return FeatureRows(len(places), read, device)
