"""Decoded pictures in one block of memory that processes share.

Letter: N pictures.
"""

import mmap
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CHECKSUM = np.dtype(np.uint32)


class PictureCache:
    """Pictures of known sides, each written once, by whichever process decodes it first.

    The block is anonymous memory that forked workers share, or a file that all processes of this and later runs map.
    A picture counts as there when its checksum fits its pixels (and, in a file, the path, time and size of its
    source): so a half-written one, a changed source or a damaged file reads as missing, whatever the order in which
    processes see each other's writes. Memory is taken as it is filled.

    A process started by spawn cannot inherit anonymous memory: there the cache stays empty, unless it is a file.

    Args:
        shapes_hw: (N, 2) sides; the first pictures that fit into ``max_bytes`` are kept, the others never.
        max_bytes: Of pixels.
        sources: (N) paths of the pictures; needed for a file only.
        path: Of the file; its folder is made. None for memory.

    Raises:
        ValueError: If the file cannot be made as large as it must be.
    """

    def __init__(
        self, shapes_hw: np.ndarray, max_bytes: float, sources: Sequence[str] = (), path: str | Path | None = None
    ) -> None:
        sizes = np.asarray(shapes_hw, np.int64).prod(axis=1) * 3
        self.all_bytes = int(sizes.sum())
        self.kept = int(np.searchsorted(np.cumsum(sizes), max_bytes, side='right'))
        self.kept_bytes = int(sizes[: self.kept].sum())
        self._shapes_hw = np.asarray(shapes_hw, np.int64)[: self.kept].copy()
        self._starts = self.kept * CHECKSUM.itemsize + np.cumsum([0, *sizes[: self.kept]])
        self._sources, self._path = tuple(sources), None if path is None else Path(path)
        self._known = np.zeros(self.kept, bool)  # in this process
        self._open()

    def get(self, index: int) -> np.ndarray | None:
        """The picture (H, W, 3) uint8, a view that cannot be written to, or None if it is not there."""
        if index >= self.kept or self._block is None:
            return None
        if not self._known[index] and not self._is_there(index):
            return None
        picture = self._pixels(index)
        picture.flags.writeable = False
        return picture

    def put(self, index: int, picture: np.ndarray) -> None:
        """Keep a picture, if there is room for it and it has the sides it should have."""
        if index >= self.kept or self._block is None or picture.shape[:2] != tuple(self._shapes_hw[index]):
            return
        self._pixels(index)[...] = picture
        checksum = self._checksum(index)
        if checksum is not None:
            self._checksums[index] = checksum
            self._known[index] = True

    def _open(self) -> None:
        self._block, size = None, int(self._starts[-1])
        if not self.kept:
            return
        if self._path is None:
            self._block = mmap.mmap(-1, size)
        else:
            self._block = _map_file(self._path, size)
        self._checksums = np.frombuffer(self._block, CHECKSUM, self.kept)

    def _pixels(self, index: int) -> np.ndarray:
        shape = (*self._shapes_hw[index].tolist(), 3)
        return np.ndarray(shape, np.uint8, self._block, self._starts[index])

    def _is_there(self, index: int) -> bool:
        self._known[index] = self._checksums[index] != 0 and self._checksums[index] == self._checksum(index)
        return bool(self._known[index])

    def _checksum(self, index: int) -> int | None:
        """Of the pixels as they stand, never 0; None if the source of a file's picture cannot be asked."""
        start = 0
        if self._path is not None:
            try:
                source = os.stat(self._sources[index])
            except OSError:
                return None
            start = zlib.crc32(f'{self._sources[index]} {source.st_mtime_ns} {source.st_size}'.encode())
        return zlib.crc32(self._pixels(index), start) or 1

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_block': None, '_checksums': None, '_known': np.zeros(self.kept, bool)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._path is not None:
            self._open()


def _map_file(path: Path, size: int) -> mmap.mmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), 'r+b') as file:
        try:
            # Without the room reserved, a full disk would end the process at some later write.
            if hasattr(os, 'posix_fallocate'):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(max(size, os.fstat(file.fileno()).st_size))
        except OSError as error:
            raise ValueError(
                f'cannot make {path} {size / 1e9:.2f} GB large: {error.strerror or error}. Choose another folder or a '
                'smaller max_gb'
            ) from error
        return mmap.mmap(file.fileno(), size)
