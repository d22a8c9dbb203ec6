"""Keep out of a terminal what a library's native part tells there of itself."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_ONE_AT_A_TIME = Lock()  # a descriptor is the process's


@contextmanager
def quietly(descriptor: int, *, noise: bytes) -> Iterator[None]:
    """Hold back what is written to stdout (1) or stderr (2), and pass on to stderr the lines that do not begin with `noise`."""
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as told:
        kept = os.dup(descriptor)
        os.dup2(told.fileno(), descriptor)
        try:
            yield
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)
            told.seek(0)
            for line in told:
                if not line.startswith(noise):
                    os.write(2, line)
