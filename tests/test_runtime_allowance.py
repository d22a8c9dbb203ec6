"""--memory is the whole allowance, for decoding, pixels, tiles and encoding: a picture waits or is refused and never exceeds it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from benchmarks.picture_formats import PictureFile
from benchmarks.picture_formats.other_files import bmp_files, gif_files, jpeg_files, webp_files
from benchmarks.picture_formats.picture_file import noise
from benchmarks.picture_formats.png_files import png_files
from benchmarks.picture_formats.tiff_files import libtiff_blocks, turned
from runtime import cli
from runtime.batch.allowance import Allowance
from runtime.bundle import Bundle
from runtime.errors import ImageError
from runtime.images import write_picture
from runtime.pictures.decode import decode
from runtime.pictures.header import Header
from runtime.tiles.memory import parse_bytes
from tests.stand_ins.libraries import ROOT

_PROGRAM = """
import re, sys
from pathlib import Path
from runtime.cli import main

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

tiny, picture, out, bundle, memory = sys.argv[1:]
main(["upscale", tiny, "-o", out + ".tiny.png", "--bundle", bundle, "--backend", "onnxruntime"])
before = peak()
main(["upscale", picture, "-o", out, "--bundle", bundle, "--backend", "onnxruntime", "--memory", memory])
print("beyond", peak() - before, file=sys.stderr)
"""


def _header(peak_bytes: int) -> Header:
    return Header(name="it", size=(1, 1), channels=1, sample_bytes=1, peak_bytes=peak_bytes)


def _none(header: Header, held_bytes: int = 0) -> int:
    return 0


def _upscale(bundle: Bundle, picture: Path, out: Path, memory: str) -> None:
    arguments = ["upscale", str(picture), "-o", str(out), "--bundle", str(bundle.directory), "--memory", memory, "--overwrite"]
    cli.main([*arguments, "--backend", "onnxruntime"])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_what_does_not_fit_is_refused_with_an_amount_that_does(
    exported_small: Bundle, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "it.png", noise((200, 300, 3)))
    with pytest.raises(SystemExit):
        _upscale(exported_small, tmp_path / "it.png", tmp_path / f"out{suffix}", "300K")
    said = capsys.readouterr().err
    for _ in range(2):  # what the picture takes, and then what its smallest tile takes beside it
        amount = said.rpartition("--memory ")[2].split()[0].rstrip(",")
        assert parse_bytes(amount, option="--memory") < 64 << 20
        try:
            _upscale(exported_small, tmp_path / "it.png", tmp_path / f"out{suffix}", amount)
            break
        except SystemExit:
            said = capsys.readouterr().err
    assert (tmp_path / f"out{suffix}").exists()


@pytest.mark.parametrize("memory", ["24M", "64M"])
def test_a_large_picture_takes_no_more_than_is_allowed(exported_small: Bundle, tmp_path: Path, memory: str) -> None:
    write_picture(tmp_path / "tiny.png", noise((8, 8, 3)))
    write_picture(tmp_path / "large.png", np.repeat(np.repeat(noise((90, 120, 3)), 8, axis=0), 8, axis=1))
    paths = [tmp_path / name for name in ("tiny.png", "large.png", "out.png")]
    child = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, paths), str(exported_small.directory), memory],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    beyond = int(child.stderr.rpartition("beyond ")[2])
    assert beyond <= parse_bytes(memory, option="--memory") + (16 << 20), f"{beyond >> 20} MiB"  # and what libraries keep


def test_a_file_larger_than_the_allowance_is_not_read(exported_small: Bundle, tmp_path: Path) -> None:
    sparse = tmp_path / "it.png"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    allowance = Allowance(1 << 20)
    with allowance.share(held=_none, tiles=_none) as share, pytest.raises(ImageError, match=r"1024\.0 GiB") as caught:
        share.check_file(sparse)
    assert "--memory" in caught.value.hint


def test_pictures_wait_for_each_other_and_are_never_more_than_the_allowance() -> None:
    allowance, inside, most, lock = Allowance(100), 0, 0, threading.Lock()

    def run(peak_bytes: int) -> None:
        nonlocal inside, most
        for _ in range(30):
            with allowance.share(held=_none, tiles=_none) as share:
                share.admit(_header(peak_bytes))
                with lock:
                    inside += peak_bytes
                    most = max(most, inside)
                with lock:
                    inside -= peak_bytes

    threads = [threading.Thread(target=run, args=(peak_bytes,)) for peak_bytes in (30, 60, 100, 45)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert 60 <= most <= 100


def test_without_an_allowance_nothing_is_refused() -> None:
    with Allowance(None).share(held=_none, tiles=_none) as share:
        share.admit(_header(1 << 60))
        assert share.held_bytes == 0


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=file.label)
        for file in (*png_files(), *jpeg_files(), *webp_files(), *gif_files(), *bmp_files(), *turned(), *libtiff_blocks())
        if file.pixels is not None
    ],
)
def test_a_header_announces_the_shape_and_the_samples_that_are_decoded(file: PictureFile) -> None:
    headers: list[Header] = []
    pixels = decode(file.data, name="it", admit=headers.append).pixels
    (header,) = headers
    assert (header.shape, header.sample_bytes, header.pixel_bytes) == (pixels.shape, pixels.itemsize, pixels.nbytes)
    assert header.peak_bytes >= pixels.nbytes
