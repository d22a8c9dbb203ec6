"""Search for `python -m quantize … --max-drop-db D`: run the search, and show the front that it found."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx
from rich.table import Table

from calibration.datasets import find_images
from quantize.int8 import PICTURES_WANTED
from quantize.options import Int8Options
from quantize.reports import write_report
from quantize.search.choose import Budget
from quantize.search.result import SearchState, Trial, pareto_front
from quantize.search.stage import Found, SearchRequest, search_bundle, state_file
from quantize.tables import FoundTable, TableRequest
from runtime.backends.processor import count_cores, processor_name
from runtime.bundle import Bundle
from runtime.errors import UserError
from runtime.terminal import console
from runtime.terminal.figures import share_text


def make_budget(
    max_drop_db: float | None, *, min_int8_macs: float | None, backend: str | None, lifted: Collection[str]
) -> Budget | None:
    """Return what was asked for, None where no search was; UserError where the options do not go together."""
    if max_drop_db is None:
        for option, value in (("--min-int8-macs", min_int8_macs), ("--backend", backend)):
            if value is not None:
                raise UserError(f"{option} has no effect without --max-drop-db", hint=f"drop {option}, or add --max-drop-db 0.03")
        return None
    if lifted:
        raise UserError("--max-drop-db finds the layers to keep in float: --keep-in-float names them", hint="drop one of the two")
    if not math.isfinite(max_drop_db) or math.isnan(min_int8_macs or 0):
        raise UserError(
            f"--max-drop-db {max_drop_db}, --min-int8-macs {min_int8_macs}: expected numbers",
            hint="--max-drop-db 0.03 --min-int8-macs 0.98",
        )
    return Budget(max_drop_db, min_int8_macs or 0)


def search(
    bundle: Bundle,
    model: onnx.ModelProto,
    request: TableRequest,
    table: FoundTable,
    options: Int8Options,
    *,
    budget: Budget,
    backend: str,
) -> Found:
    """Search, and show and write the front that was found, as far as it came where the budget cannot be met.

    Args:
        model: the bundle's fp32 graph.
    """
    if not table.crops:
        raise UserError(f"--max-drop-db measures on pictures, and --calib {request.calib} brings none", hint=PICTURES_WANTED)
    images = find_images(request.calib, scale=bundle.manifest.scale, use="calibration", root=request.root)
    wanted = SearchRequest(
        images=images,
        table=table.table,
        options=options,
        crops=table.crops,
        backend=backend,
        budget=budget,
        measure_again=request.measure_again,
    )
    with console.progress() as bar:
        task = bar.add_task("searching", total=None)
        found = search_bundle(
            bundle,
            model,
            wanted,
            on_step=lambda doing, done, total: bar.update(task, description=f"searching: {doing}", completed=done, total=total),
        )
    _show(bundle, found)
    return found


_HEADINGS = ("", "drop dB", "p50 ms", "× int8", "× fp32", "int8 MACs", "kept in float")


def _show(bundle: Bundle, found: Found) -> None:
    state = found.state
    front = pareto_front(state.trials)
    shown = front if found.chosen in front else sorted([*front, found.chosen], key=lambda trial: trial.cost)
    rows = [_cells(trial, is_chosen=trial == found.chosen) for trial in shown]
    table = Table(*_HEADINGS, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.out.print(table)
    lines = [" | ".join(("", *row, "")).strip() for row in (_HEADINGS, ["---"] * len(_HEADINGS), *rows)]
    note = _conditions(state, tried_now=found.tried_now)
    console.show(note)
    file = state_file(bundle, state.target).with_suffix(".md")
    write_report(file, "\n".join((*lines, "", note, "")).encode())
    console.show(f"report: {file}, and all that was tried in {file.with_suffix('.json').name}")


def _cells(trial: Trial, *, is_chosen: bool) -> list[str]:
    return [
        "→" if is_chosen else "",
        f"{trial.drop_db:.3f}",
        f"{trial.p50_ms:.1f}",
        f"{trial.cost:.2f}",
        f"{trial.p50_ms / trial.fp32_p50_ms:.2f}",
        share_text(trial.int8_mac_share),
        ", ".join(trial.lifted) or "nothing",
    ]


def _conditions(state: SearchState, *, tried_now: int) -> str:
    held_back, timing = state.held_back, state.timing
    where = f"{len(held_back.images)} pictures of {held_back.dataset}, {held_back.crops} crops"
    which = "that calibration did not see" if held_back.are_other_pictures else "of what calibration saw other crops of"
    shape = "×".join(map(str, timing.shape))
    return (
        f"Pareto front of {len(state.trials)} graphs tried, {tried_now} of them now. Drop: PSNR of luma below fp32's, mean over "
        f"{where} {which}. Latency on {state.backend}, {shape}, its own number of threads, median of {timing.n} after "
        f"{timing.warm_up}, in turn with fp32 and with everything in int8, on {processor_name()}, {count_cores()} cores. "
        "The chosen graph has weights rounded for what it keeps in float."
    )
