"""Many picture files through one Upscaler: which they are, where each goes, and what became of it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np

from runtime.allowance import Share
from runtime.bicubic import upscale_bicubic, upscaled_size
from runtime.decode import Decoded
from runtime.encode import SUFFIXES, check_format, open_writer, whole_bytes
from runtime.errors import ImageError, SredgeError
from runtime.images import is_image_file, read_image
from runtime.ordered import in_order
from runtime.picture_header import Header
from runtime.pixels import AnyPicture
from runtime.tiling import Span
from runtime.upscaler import Upscaler

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
        """The files that it writes."""
        return (self.result, self.comparison) if compare else (self.result,)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: the sizes (H, W) it went from and to, or why it failed."""

    job: Job
    source_size: tuple[int, int] = (0, 0)
    result_size: tuple[int, int] = (0, 0)
    error: SredgeError | None = None

    @property
    def megapixels(self) -> float:
        """Of the result."""
        return self.result_size[0] * self.result_size[1] / 1e6


class _StoppedError(Exception):
    """The result is no longer wanted."""


def find_jobs(sources: Iterable[Path], out: Path) -> tuple[Job, ...]:
    """A job for each file named and each picture below a folder named: below `out` it keeps its path there and its name.

    One file goes to `out` itself, unless that is a folder or has no suffix. A GIF becomes a PNG.

    Raises:
        ImageError: a source is not there, a folder has no pictures, or a result would be two sources' or a source itself.
    """
    sources = tuple(sources)
    if len(sources) == 1 and not sources[0].is_dir() and not out.is_dir() and out.suffix:
        return (Job(sources[0], out),)
    jobs: dict[Path, Job] = {}
    for path, relative in (pair for source in sources for pair in _pictures_of(source)):
        job = Job(path, out / (relative if path.suffix.lower() in SUFFIXES else relative.with_suffix(".png")))
        if job.result in jobs:
            raise ImageError(f"{jobs[job.result].source} and {path} would both become {job.result}", hint="run them one by one")
        if job.result.resolve() == path.resolve():
            raise ImageError(f"{path} would be replaced by its own result", hint="-o another folder")
        jobs[job.result] = job
    return tuple(jobs.values())


def _pictures_of(source: Path) -> list[tuple[Path, Path]]:
    """Each picture, and what is below the folder that was named of its path."""
    if not source.is_dir():
        return [(source, Path(source.name))]
    found = [(path, path.relative_to(source)) for path in sorted(source.rglob("*")) if path.is_file() and is_image_file(path)]
    if not found:
        raise ImageError(f"{source} has no pictures in it", hint="their names should end in .png, .jpg, .webp, .tiff, .gif or .bmp")
    return found


def run_jobs(upscaler: Upscaler, jobs: Iterable[Job], *, compare: bool = False) -> Generator[Outcome, None, None]:
    """Upscales files in the order of `jobs`; while the network runs, others are decoded and encoded.

    Leaving early stops those under way: a result is whole or not there.

    Args:
        compare: also write `Job.comparison`.
    """
    stop = Event()
    return in_order(partial(_run_job, upscaler, compare=compare, stop=stop), jobs, workers=upscaler.parallel + 1, stop=stop)


def _run_job(upscaler: Upscaler, job: Job, *, compare: bool, stop: Event) -> Outcome:
    try:
        # A comparison is twice as wide.
        with share_of(upscaler, (job.result, *[job.comparison] * 2 * compare)) as share:
            return _run_within(share, upscaler, job, compare=compare, stop=stop)
    except (SredgeError, _StoppedError) as error:
        return Outcome(job, error=error if isinstance(error, SredgeError) else ImageError(f"{job.source}: stopped"))
    except OSError as error:
        return Outcome(job, error=ImageError(f"cannot write {job.result}: {error.strerror or error}"))


def share_of(upscaler: Upscaler, outputs: Sequence[Path]) -> AbstractContextManager[Share]:
    """The part of the upscaler's memory that one picture takes which is written to `outputs`."""

    def held(header: Header) -> int:
        size = upscaled_size(header.size, upscaler.bundle.manifest.scale)
        return header.pixel_bytes + sum(whole_bytes(path.suffix, size) for path in outputs)

    def tiles(header: Header, held_bytes: int) -> int:
        stand_in = np.broadcast_to(np.zeros((), f"u{header.sample_bytes}"), header.shape)
        return upscaler.plan(stand_in, held_bytes=held_bytes).takes_bytes

    return upscaler.allowance.share(held=held, tiles=tiles)


def _run_within(share: Share, upscaler: Upscaler, job: Job, *, compare: bool, stop: Event) -> Outcome:
    """Runs the job in its share of the memory."""
    share.check_file(job.source)
    image = read_image(job.source, admit=share.admit)
    pixels = image.pixels
    size = upscaler.plan(pixels, held_bytes=share.held_bytes).size
    for path in job.outputs(compare=compare):
        check_format(path.suffix, (*size, *pixels.shape[2:]), pixels.dtype, name=str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
    _write(upscaler, job, image, size, held_bytes=share.held_bytes, compare=compare, stop=stop)
    return Outcome(job, (pixels.shape[0], pixels.shape[1]), size)


def _write(
    upscaler: Upscaler, job: Job, image: Decoded, size: tuple[int, int], *, held_bytes: int, compare: bool, stop: Event
) -> None:
    pixels, icc_profile = image.pixels, image.icc_profile
    channels = pixels.shape[2:]
    with ExitStack() as stack:
        result = stack.enter_context(open_writer(job.result, (*size, *channels), pixels.dtype, icc_profile=icc_profile))
        beside = None
        if compare:
            shape = (size[0], 2 * size[1] + _DIVIDER, *channels)
            beside = stack.enter_context(open_writer(job.comparison, shape, pixels.dtype, icc_profile=icc_profile))
        top = 0
        for band in upscaler.bands(pixels, held_bytes=held_bytes):
            if stop.is_set():
                raise _StoppedError
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
