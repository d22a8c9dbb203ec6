"""Read files of unknown origin: regular files up to a size; links, folders, FIFOs and devices are refused at once.

Opening a FIFO waits for a writer, a device may have no end, and a link leads out of the folder it lies in.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINKS: int = getattr(os, "O_NOFOLLOW", 0)


def open_regular(path: Path, *, most_bytes: int, follow_links: bool = False) -> BinaryIO:
    """Open the regular file `path` of at most so many bytes, without waiting.

    Args:
        follow_links: of a path that the user typed; what a bundle holds must lie in it.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    if not follow_links and path.is_symlink():  # O_NOFOLLOW refuses it as well, with "too many levels of symbolic links"
        raise OSError(errno.ELOOP, "it is a link, not a regular file", str(path))
    descriptor = os.open(path, _FLAGS | (0 if follow_links else _NO_LINKS))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, expected {most_bytes} at most", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, *, most_bytes: int) -> bytes:
    """Return the bytes of the regular file `path`; OSError as `open_regular` raises it."""
    with open_regular(path, most_bytes=most_bytes) as file:
        return file.read(os.fstat(file.fileno()).st_size)
