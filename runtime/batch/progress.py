"""Show progress on a terminal: one picture by its tiles; several by pictures done, and the tiles of those under way."""

from __future__ import annotations

from rich.progress import Progress, TaskID

from .jobs import Job


class TileBars:
    """Bars of one run; several threads may call `on_tile`, each for a job of its own."""

    def __init__(self, bar: Progress, *, pictures: int) -> None:
        self._bar = bar
        self._pictures = pictures
        self._whole = bar.add_task("upscaling", total=pictures)
        self._under_way: dict[Job, TaskID] = {}

    def on_tile(self, job: Job, done: int, count: int) -> None:
        if self._pictures == 1:
            self._bar.update(self._whole, completed=done, total=count)
        elif count > 1:
            if job not in self._under_way:
                self._under_way[job] = self._bar.add_task(job.source.name, total=count)
            self._bar.update(self._under_way[job], completed=done)

    def on_picture(self, job: Job, *, megapixels_per_s: float) -> None:
        """After the last tile, or a failure."""
        if job in self._under_way:
            self._bar.remove_task(self._under_way.pop(job))
        advance = 0 if self._pictures == 1 else 1
        self._bar.update(self._whole, advance=advance, description=f"upscaling, {megapixels_per_s:.2f} MP/s")
