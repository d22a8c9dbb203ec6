"""Share the memory that a user allows among the pictures in flight.

What it takes to decode, hold, run and encode a picture is set aside before the picture is read.

A picture takes the most of two phases: decoding, or its pixels, its tiles and what an encoder holds whole. It waits until that much
is free, and is refused where it is more than there is. Without an allowance nothing waits and nothing is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

from ..errors import ImageError
from ..pictures.header import Header
from ..tiles.memory import format_bytes


class Share:
    """What one picture may take.

    Attributes:
        held_bytes: of the allowance, what the picture's pixels and its encoder take while its tiles run; 0 without an allowance.
    """

    def __init__(self, allowance: Allowance, held: Callable[[Header], int], tiles: Callable[[Header, int], int]) -> None:
        self._allowance, self._held, self._tiles = allowance, held, tiles
        self.held_bytes = 0
        self.taken_bytes = 0

    def check_file(self, path: Path) -> None:
        """Raise ImageError where the file alone is more than is allowed: it is not read at all."""
        if self._allowance.total_bytes is not None and path.is_file():
            size_bytes = path.stat().st_size
            self._allowance.check(2 * size_bytes, f"{path} of {format_bytes(size_bytes)}")

    def admit(self, header: Header) -> None:
        """Wait until the picture has room; ImageError where it never will."""
        if self._allowance.total_bytes is None:
            return
        what = f"{header.name} of {header.size[1]}×{header.size[0]} pixels"
        held_bytes = self._held(header)
        needed = max(header.peak_bytes, held_bytes + self._tiles(header, held_bytes))
        self._allowance.check(needed, what)
        self._allowance.take(needed)
        self.held_bytes, self.taken_bytes = held_bytes, needed


class Allowance:
    """So many bytes for all pictures in flight; None sets no limit. Several threads may use it."""

    def __init__(self, total_bytes: int | None) -> None:
        self.total_bytes = total_bytes
        self._free = total_bytes or 0
        self._changed = Condition()

    @contextmanager
    def share(self, *, held: Callable[[Header], int], tiles: Callable[[Header, int], int]) -> Iterator[Share]:
        """One picture's part, given back at the end.

        Args:
            held: what is held of the picture that a header announces while its tiles run.
            tiles: what its tiles take beside that, by their plan.
        """
        share = Share(self, held, tiles)
        try:
            yield share
        finally:
            self.take(-share.taken_bytes)

    def check(self, needed_bytes: int, what: str) -> None:
        """Raise ImageError where that is more than there is."""
        assert self.total_bytes is not None
        if needed_bytes > self.total_bytes:
            raise ImageError(
                f"{what} takes up to {format_bytes(needed_bytes)} to decode, upscale and encode; "
                f"{format_bytes(self.total_bytes)} are allowed",
                hint=f"--memory {math.ceil(needed_bytes / (1 << 20))}M",
            )

    def take(self, needed_bytes: int) -> None:
        """Set so much aside, once it is free; gives it back where it is negative."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= needed_bytes or needed_bytes <= 0)
            self._free -= needed_bytes
            self._changed.notify_all()
