"""Upscale many picture files with one Upscaler: files and folders in, one result or one error per picture out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np

from ..errors import ImageError, SredgeError
from ..files.whole import no_empty_folders
from ..images import is_image_file, read_image
from ..pictures.bicubic import upscale_bicubic
from ..pictures.decode import Decoded
from ..pictures.encode import SUFFIXES, RowWriter, open_writer, whole_bytes
from ..pictures.header import Header
from ..pictures.pixels import AnyPicture
from ..sizes import Span, upscaled_size
from ..tiles.ordered import in_order
from ..tiles.seams import SeamError
from ..upscaler import Upscaler
from .allowance import Share
from .claims import Claim, check_claims

_log = logging.getLogger(__name__)

_DIVIDER = 4  # white columns between the two pictures of a comparison


@dataclass(frozen=True)
class Job:
    """One file to upscale, and where its result goes."""

    source: Path
    result: Path

    @property
    def comparison(self) -> Path:
        """Where bicubic and the network are shown side by side."""
        return self.result.with_name(f"{self.result.stem}-compare{self.result.suffix}")

    def outputs(self, *, compare: bool) -> tuple[Path, ...]:
        """Return what the job writes."""
        return (self.result, self.comparison) if compare else (self.result,)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: the sizes (H, W) it went from and to and what its tiles cost, or why it failed."""

    job: Job
    source_size: tuple[int, int] = (0, 0)
    result_size: tuple[int, int] = (0, 0)
    seam_error: SeamError | None = None
    error: SredgeError | None = None

    @property
    def megapixels(self) -> float:
        """Megapixels of the result."""
        return self.result_size[0] * self.result_size[1] / 1e6


OnTile = Callable[[Job, int, int], None]
"""Called with a job, how many tiles of it are done, and of how many."""


class _StoppedError(Exception):
    """The result is no longer wanted."""


def find_jobs(sources: Iterable[Path], out: Path) -> tuple[Job, ...]:
    """Return a job for each file named and each picture below a folder named: below `out` it keeps its path there and its name.

    One file goes to `out` itself, unless that is a folder or has no suffix. A GIF becomes a PNG. Pictures below `out` are
    results, and no sources of a folder around it.

    Raises:
        ImageError: a source is not there, a folder has no pictures, several would go into one file, or `out` is a folder named.
    """
    try:
        return _find_jobs(tuple(sources), out)
    except OSError as error:  # a name that is too long, for instance
        raise ImageError(f"{error.filename}: {error.strerror}", hint="name other files or folders") from error


def _find_jobs(sources: Sequence[Path], out: Path) -> tuple[Job, ...]:
    if len(sources) == 1 and not sources[0].is_dir() and not out.is_dir() and out.suffix:
        return (Job(sources[0], out),)
    _check_is_folder(out)
    jobs: dict[Path, Job] = {}
    for path, relative in (pair for source in sources for pair in _pictures_of(source, out)):
        job = Job(path, out / (relative if path.suffix.lower() in SUFFIXES else relative.with_suffix(".png")))
        if job.result in jobs:
            raise ImageError(f"{jobs[job.result].source} and {path} would both become {job.result}", hint="run them one by one")
        jobs[job.result] = job
    return tuple(jobs.values())


def _check_is_folder(out: Path) -> None:
    """Raise ImageError where `out` is, or looks like, one picture."""
    if out.is_dir():
        return
    if out.suffix.lower() in SUFFIXES:
        raise ImageError(
            f"{out} names one picture, and more are asked for", hint=f"-o {out.with_suffix('')} puts them into a folder"
        )
    if os.path.lexists(out):
        raise ImageError(f"{out} is a file, and pictures go into a folder", hint="-o another name")


def _pictures_of(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return each picture, and what is below the folder that was named of its path."""
    if not source.is_dir():
        return [(source, Path(source.name))]
    folder, results = source.resolve(), out.resolve()
    if folder == results:
        raise ImageError(f"each picture in {source} would be replaced by its own result", hint=f"-o {source / 'larger'}")
    pictures = [path for path in sorted(source.rglob("*")) if path.is_file() and is_image_file(path)]
    if folder in results.parents:
        kept = [path for path in pictures if results not in path.resolve().parents]
        if len(kept) < len(pictures):
            _log.warning("%d pictures below %s are left out: the results go there", len(pictures) - len(kept), out)
        pictures = kept
    if not pictures:
        raise ImageError(f"{source} has no pictures in it", hint="their names should end in .png, .jpg, .webp, .tiff, .gif or .bmp")
    return [(path, path.relative_to(source)) for path in pictures]


def check_outputs(jobs: Sequence[Job], *, compare: bool, in_place: bool) -> None:
    """Raise ImageError where two outputs of the jobs are one file, or one is a source.

    `in_place` allows a source its own result.
    """
    claims = [Claim(job.result, job.source, f"the result of {job.source}", in_place=in_place) for job in jobs]
    if compare:
        claims += [Claim(job.comparison, job.source, f"the comparison of {job.source}") for job in jobs]
    check_claims(claims)


def run_jobs(
    upscaler: Upscaler, jobs: Iterable[Job], *, compare: bool = False, on_tile: OnTile | None = None
) -> Generator[Outcome, None, None]:
    """Upscale files in the order of `jobs`; while the network runs, others are decoded and encoded.

    Leaving early stops those under way: a result is whole or not there, and no folder stays empty.

    Args:
        compare: also write `Job.comparison`.
        on_tile: called after each tile, by several threads.

    Raises:
        ImageError: as `check_outputs` does, before the first picture is read.
    """
    jobs = tuple(jobs)
    check_outputs(jobs, compare=compare, in_place=len(jobs) == 1)
    return _outcomes(upscaler, jobs, compare=compare, on_tile=on_tile)


def _outcomes(upscaler: Upscaler, jobs: Sequence[Job], *, compare: bool, on_tile: OnTile | None) -> Generator[Outcome, None, None]:
    stop = Event()
    run = partial(_run_job, upscaler, compare=compare, on_tile=on_tile, stop=stop)
    with (
        no_empty_folders(job.result.parent for job in jobs),
        closing(in_order(run, jobs, workers=upscaler.parallel + 1, stop=stop)) as outcomes,
    ):
        yield from outcomes


def _run_job(upscaler: Upscaler, job: Job, *, compare: bool, on_tile: OnTile | None, stop: Event) -> Outcome:
    def after_tile(done: int, count: int) -> None:
        if stop.is_set():
            raise _StoppedError
        if on_tile is not None:
            on_tile(job, done, count)

    try:
        # A comparison is twice as wide.
        with share_of(upscaler, (job.result, *[job.comparison] * 2 * compare)) as share:
            share.check_file(job.source)
            image = read_image(job.source, admit=share.admit)
            size = upscaler.plan(image.pixels, held_bytes=share.held_bytes).size
            with upscaler.bands(image.pixels, held_bytes=share.held_bytes, on_tile=after_tile) as bands:
                _write(job, image, bands, size, compare=compare)
    except (SredgeError, _StoppedError) as error:
        return Outcome(job, error=error if isinstance(error, SredgeError) else ImageError(f"{job.source}: stopped"))
    return Outcome(job, (image.pixels.shape[0], image.pixels.shape[1]), size, bands.seam_error)


def share_of(upscaler: Upscaler, outputs: Sequence[Path]) -> AbstractContextManager[Share]:
    """Return the part of the upscaler's memory that one picture takes which is written to `outputs`."""

    def held(header: Header) -> int:
        size = upscaled_size(header.size, upscaler.bundle.manifest.scale)
        return header.pixel_bytes + sum(whole_bytes(path.suffix, size) for path in outputs)

    def tiles(header: Header, held_bytes: int) -> int:
        stand_in = np.broadcast_to(np.zeros((), f"u{header.sample_bytes}"), header.shape)
        return upscaler.plan(stand_in, held_bytes=held_bytes).takes_bytes

    return upscaler.allowance.share(held=held, tiles=tiles)


def _write(job: Job, image: Decoded, bands: Iterable[AnyPicture], size: tuple[int, int], *, compare: bool) -> None:
    pixels, channels = image.pixels, image.pixels.shape[2:]
    with ExitStack() as stack:

        def opened(path: Path, width: int) -> RowWriter:
            shape = (size[0], width, *channels)
            return stack.enter_context(open_writer(path, shape, pixels.dtype, icc_profile=image.icc_profile))

        result = opened(job.result, size[1])
        beside = opened(job.comparison, 2 * size[1] + _DIVIDER) if compare else None
        top = 0
        for band in bands:
            result.write(band)
            if beside is not None:
                beside.write(_side_by_side(pixels, band, size, rows=Span(top, top + len(band))))
            top += len(band)


def _side_by_side(source: AnyPicture, band: AnyPicture, size: tuple[int, int], *, rows: Span) -> AnyPicture:
    """Bicubic to the left, the network's `band` to the right, these `rows` of both."""
    planes = source.reshape(*source.shape[:2], -1)
    bicubic = upscale_bicubic(planes, size, rows=rows).reshape(band.shape)
    divider = np.full((len(band), _DIVIDER, *band.shape[2:]), np.iinfo(band.dtype).max, band.dtype)
    return np.concatenate([bicubic, divider, band], axis=1)
