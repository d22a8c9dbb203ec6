"""Run one picture at a time in memory that is kept for the next of that size: a loaded network and an array in, arrays out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError
from .library import ncnn
from .model import INPUT


class Place:
    """The memory of one run. ncnn's own allocators keep what each size of picture took: LESRCNN x2 grew to 2 GB in twenty sizes."""

    def __init__(self) -> None:
        self._allocators = ncnn.PoolAllocator(), ncnn.PoolAllocator()
        self._shape: tuple[int, ...] = ()

    def run(self, net: ncnn.Net, picture: NDArray[np.float32], blobs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Run one picture, (C, H, W); return each of `blobs` as float32.

        Raises:
            BackendError: ncnn cannot; it says no reason but a number.
        """
        if picture.shape != self._shape:
            for allocator in self._allocators:
                allocator.clear()
            self._shape = picture.shape
        given = np.ascontiguousarray(picture)
        extractor = net.create_extractor()
        extractor.set_blob_allocator(self._allocators[0])
        extractor.set_workspace_allocator(self._allocators[1])
        extractor.input(INPUT, ncnn.Mat(given).clone())  # ncnn's own memory, whose channels it aligns
        found = {}
        for name in blobs:
            code, value = extractor.extract(name)
            if code != 0:
                raise BackendError(f"ncnn {ncnn.__version__} cannot run {picture.shape} through this graph: error {code}")
            found[name] = np.array(value, np.float32)
            del value
        extractor.clear()
        return found
