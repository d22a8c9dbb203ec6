"""Hand ncnn the bytes of a .bin file from memory, piece by piece: no file, and no second copy of the weights."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from .library import ncnn

# ncnn's `load_model_mem` keeps pointing into memory that Python frees; a reader's bytes are copied into ncnn's own.
_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype = ctypes.c_void_p
_address.argtypes = (ctypes.py_object, ctypes.c_char_p)


class WeightReader(ncnn.DataReader):  # type: ignore[misc] # no type information
    """Reads `pieces`, one after the other."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        super().__init__()
        self._pieces = pieces
        self._left = memoryview(b"")

    @property
    def read_all(self) -> bool:
        """Whether nothing is left."""
        return not self._left.nbytes and next(self._pieces, None) is None

    def scan(self, text: str, value: object) -> int:
        """Read no text: weights have none."""
        del text, value
        return 0

    def read(self, buffer: object, size_bytes: int) -> int:
        """Copy the next bytes to where `buffer`, a capsule around an address, points."""
        target, done = _address(buffer, None), 0
        while done < size_bytes:
            if not self._left.nbytes:
                self._left = next(self._pieces, memoryview(b""))
                if not self._left.nbytes:
                    break
            part = self._left[: size_bytes - done]
            source = (ctypes.c_char * part.nbytes).from_buffer(part) if not part.readonly else part.tobytes()
            ctypes.memmove(target + done, source, part.nbytes)
            self._left = self._left[part.nbytes :]
            done += part.nbytes
        return done
