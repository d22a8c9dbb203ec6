"""Small picture files of every layout, and the pixels each should be read as: for a table of what the runtime reads right.

`python -m benchmarks.picture_formats` prints it; tests/test_runtime_formats.py holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from benchmarks.picture_formats.other_files import bmp_files, gif_files, jpeg_files, webp_files
from benchmarks.picture_formats.picture_file import PictureFile
from benchmarks.picture_formats.png_files import png_files
from benchmarks.picture_formats.tiff_files import tiff_files

__all__ = ["PictureFile", "picture_files"]


def picture_files() -> Iterator[PictureFile]:
    """Yield all of them, format by format."""
    return chain(tiff_files(), png_files(), jpeg_files(), webp_files(), gif_files(), bmp_files())
