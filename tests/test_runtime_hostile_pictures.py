"""Picture files that lie about their lengths: an error, or the right pixels, within seconds and the stated memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from benchmarks.picture_formats.picture_file import noise
from benchmarks.picture_formats.png_files import png_by_hand, png_chunk
from runtime.errors import ImageError
from runtime.pictures.decode import decode
from tests.stand_ins.libraries import ROOT

_SECONDS = 10  # of the slowest file, on a busy machine


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets a process's high-water mark")
def test_hostile_files_take_seconds_and_no_more_memory_than_is_stated() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.hostile_pictures"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
    groups = [json.loads(line) for line in child.stdout.splitlines()]
    assert sum(group["files"] for group in groups) > 15_000
    assert [group for group in groups if group["beyond_bytes"][0] > 0 or group["slowest"][0] > _SECONDS] == []


def test_a_png_chunk_that_claims_more_than_the_file_holds_is_named() -> None:
    data = bytearray(png_by_hand(noise((9, 9, 3), 16), 2, 16, [], interlaced=False))
    data[33] = 0xEC  # IDAT's length
    with pytest.raises(ImageError, match=r"'IDAT' chunk claims \d+ bytes, and \d+ are there"):
        decode(bytes(data), name="it")


@pytest.mark.parametrize("bits", [1, 8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_png_with_rows_missing_is_an_error_and_no_black_rows(bits: int, interlaced: bool, kept: float) -> None:
    whole = png_by_hand(noise((50, 40, 1), bits), 0, bits, [], interlaced=interlaced)
    header, packed = whole[:33], b""
    at = 33
    while at < len(whole):
        (length,) = struct.unpack_from(">I", whole, at)
        packed += whole[at + 8 : at + 8 + length]
        at += 12 + length
    rows = zlib.decompress(packed)
    short = zlib.compress(rows[: int(len(rows) * kept)])
    with pytest.raises(ImageError, match="not all there"):
        decode(header + png_chunk(b"IDAT", short) + png_chunk(b"IEND", b""), name="it")
