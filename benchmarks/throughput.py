"""python -m benchmarks.throughput [BUNDLE] --data FOLDER: files in, files out, frames per second.

Three ways through the same frames, in turns, so that a machine's drift meets all alike: int8 on openvino through the queue in which
decoding, the network and encoding overlap; the same one frame after the other; and fp32 on onnxruntime through the queue.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks.machine import count_cores, describe_machine
from calibration.datasets import DATA_HELP, find_files
from runtime.batch.jobs import Job, run_jobs
from runtime.bundle import Bundle, resolve_bundle
from runtime.errors import ImageError
from runtime.images import read_image, read_picture, write_picture
from runtime.pictures.pixels import Picture
from runtime.targets import Precision
from runtime.terminal import console
from runtime.terminal.figures import measured_text
from runtime.tiles.memory import parse_bytes
from runtime.upscaler import Upscaler

_WARM_UP_SIDE = 128
_OPENED: tuple[tuple[Precision, str], ...] = (("int8", "openvino"), ("fp32", "onnxruntime"))
Run = Callable[[Upscaler, Sequence[Job]], None]

app = console.application("Measure frames per second, files in and files out.")


@dataclass
class Way:
    """One way to upscale files, and the seconds that each turn of it took."""

    name: str
    upscaler: Upscaler
    run: Run
    taken_s: list[float] = field(default_factory=list)

    def frames_per_second(self, frames: int) -> float:
        return frames * len(self.taken_s) / sum(self.taken_s)


@app.command()
def throughput(
    data: Annotated[str, typer.Option(help=f"{DATA_HELP}; frames are cut from the middle of each")],
    bundle: Annotated[Path | None, typer.Argument(help="the bundle [default: the only one under build/]")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="of a frame")] = "1080x1920",
    frames: Annotated[int, typer.Option(min=1, help="how many")] = 8,
    turns: Annotated[int, typer.Option(min=1, help="how often each way is measured")] = 2,
    parallel: Annotated[int, typer.Option(min=1, help="runs of the network at a time")] = 1,
    memory: Annotated[
        str | None, typer.Option(help="what pictures and tiles may take, 2G for instance [default: a quarter of what is free]")
    ] = None,
) -> None:
    """Measure int8 on openvino against itself one frame at a time, and against fp32 on onnxruntime."""
    opened = Bundle.open(resolve_bundle(bundle))
    height_width = console.parse_size(size, option="--size")
    memory_bytes = None if memory is None else parse_bytes(memory, option="--memory")
    cores = count_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        jobs = _cut_frames(data, height_width, count=frames, folder=Path(folder))
        int8, fp32 = (
            stack.enter_context(
                Upscaler.open(
                    opened, precision=precision, backend=backend, parallel=parallel, threads=cores, memory_bytes=memory_bytes
                )
            )
            for precision, backend in _OPENED
        )
        ways = (
            Way("int8 on openvino", int8, _through_the_queue),
            Way("int8 on openvino, one at a time", int8, _one_at_a_time),
            Way("fp32 on onnxruntime", fp32, _through_the_queue),
        )
        _measure(ways, jobs, turns=turns)
        _print_result(ways, frames=frames)
    machine = describe_machine()
    console.show(
        f"{opened.manifest.model} x{opened.manifest.scale:g}, {frames} PNG files of {height_width[1]}×{height_width[0]} to PNG, "
        f"{turns} turns (their mean), {cores} threads, {parallel} at a time in the network; {machine.processor}, {cores} cores"
        + ("" if load is None else f"; load average before: {load:.1f}")
    )


def _cut_frames(data: str, size: tuple[int, int], *, count: int, folder: Path) -> tuple[Job, ...]:
    """Write frames of that (H, W) as PNG; a picture stands in for several where there are too few.

    Raises:
        DatasetError: there are no such pictures.
        ImageError: none is that large.
    """
    frames: list[Picture] = []
    for path in find_files(data):
        if len(frames) < count:
            picture = read_picture(path)
            top, left = ((have - want) // 2 for have, want in zip(picture.shape[:2], size, strict=True))
            if min(top, left) >= 0:
                frames.append(np.ascontiguousarray(picture[top : top + size[0], left : left + size[1]]))
    if not frames:
        raise ImageError(f"{data} has no picture of {size[1]}×{size[0]} pixels or more", hint="a smaller --size, or other --data")
    jobs = tuple(Job(folder / f"{index}.png", folder / f"{index}-larger.png") for index in range(count))
    for index, job in enumerate(jobs):
        write_picture(job.source, frames[index % len(frames)])
    return jobs


def _measure(ways: Sequence[Way], jobs: Sequence[Job], *, turns: int) -> None:
    for way in ways:
        way.upscaler(np.zeros((_WARM_UP_SIDE, _WARM_UP_SIDE, 3), np.uint8))
    with console.progress() as bar:
        task = bar.add_task("measuring", total=turns * len(ways))
        for _ in range(turns):
            for way in ways:
                bar.update(task, description=way.name)
                began = time.perf_counter()
                way.run(way.upscaler, jobs)
                way.taken_s.append(time.perf_counter() - began)
                bar.advance(task)


def _through_the_queue(upscaler: Upscaler, jobs: Sequence[Job]) -> None:
    for outcome in run_jobs(upscaler, jobs):
        if outcome.error is not None:
            raise outcome.error


def _one_at_a_time(upscaler: Upscaler, jobs: Sequence[Job]) -> None:
    for job in jobs:
        write_picture(job.result, upscaler(read_image(job.source).pixels))


def _print_result(ways: Sequence[Way], *, frames: int) -> None:
    first = ways[0].frames_per_second(frames)
    table = Table("way", "frames per second", "first is × faster", box=None, header_style="bold", pad_edge=False)
    for way in ways:
        rate = way.frames_per_second(frames)
        table.add_row(way.name, measured_text(rate), f"{first / rate:.2f}")
    console.out.print(table)
    for way in ways:
        if not way.upscaler.precision_report.verified:
            console.show(f"(!) {way.name} ran in {way.upscaler.precision_report}")


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m benchmarks.throughput")


if __name__ == "__main__":
    main()
