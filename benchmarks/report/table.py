"""Turn a comparison into rows of text, the same in the terminal, in Markdown and in HTML."""

from __future__ import annotations

from pathlib import Path

from benchmarks.latency import ENOUGH_RUNS
from benchmarks.protocols import find_protocol
from benchmarks.result import Result, Row
from runtime.backends import EMULATED
from runtime.terminal.figures import measured_text, share_text

COLUMNS = (
    "bundle",
    "precision",
    "target",
    "ran in",
    "backend",
    "PSNR dB",
    "SSIM",
    "dB lost",
    "vs fp32 dB",
    "p50 ms",
    "× fp32",
    "MB",
    "peak MB",
)


def cells(row: Row) -> tuple[str, ...]:
    """Return the texts of one row, in the order of COLUMNS."""
    return (
        Path(row.bundle).name,
        row.precision,
        row.target or "–",
        _shares(row) if row.precision_verified else f"{_shares(row)} (!)",
        row.backend,
        _decibels(row.psnr_db, 2),
        f"{row.ssim:.4f}",
        "–" if row.drop_db is None else f"{round(row.drop_db, 3) + 0.0:.3f}",  # + 0.0: no "-0.000"
        "equal" if row.psnr_vs_fp32_db is None else f"{row.psnr_vs_fp32_db:.1f}",
        "–" if row.latency is None else measured_text(row.latency.p50_ms),
        "–" if row.speedup is None else f"{row.speedup:.2f}",
        f"{row.size_bytes / 1e6:.2f}",
        "–" if row.peak_rss_bytes is None else f"{row.peak_rss_bytes / 1e6:.0f}",
    )


def published_cells(result: Result) -> list[tuple[str, ...]]:
    """Rows of what was published of these networks under this protocol, in the order of COLUMNS; `notes` says of what pictures."""
    rows = []
    protocol = find_protocol(result.rows[0].protocol)
    for model, scale in dict.fromkeys((row.model, row.scale) for row in result.rows):
        of_this = [one for one in protocol.published if (one.model, one.scale) == (model, scale)]
        fp32 = next((one.psnr_db for one in of_this if one.precision == "fp32"), None)
        for one in of_this:
            lost = "–" if fp32 is None else f"{fp32 - one.psnr_db:.3f}"
            figures = (f"{one.psnr_db:.3f}", f"{one.ssim:.3f}", lost)
            rows.append((f"published {model}_x{scale:g}", one.precision, "–", "–", "–", *figures, *["–"] * (len(COLUMNS) - 8)))
    return rows


def bicubic_lines(result: Result) -> list[str]:
    """Return what bicubic upscaling reaches on the same pictures, a line per bundle."""
    return [
        f"bicubic, {baseline.bundle}: {_decibels(baseline.psnr_db, 2)} dB, SSIM {baseline.ssim:.4f}" for baseline in result.bicubic
    ]


def notes(result: Result) -> list[str]:
    """Return how the figures were taken, and every case that is not what it was asked to be."""
    first = result.rows[0]
    lines = [
        f"protocol {result.protocol}; {first.images} pictures of {first.dataset}",
        f"dB lost and vs fp32: against {result.reference}; vs fp32 is the PSNR of the outputs themselves",
        *_latency_notes(result),
        "peak MB: the largest resident memory of a process that ran all of this and nothing else, pictures and timing",
        f"machine: {result.machine.processor}, {result.machine.cores} cores, "
        f"{' '.join(result.machine.instructions) or 'no 8- or 16-bit instructions known'}",
    ]
    for row in result.rows:
        lines += _device_notes(row)
    if published_cells(result):
        protocol = find_protocol(first.protocol)
        lines.append(f"published: by {protocol.source}; on {protocol.published_on}, not these pictures; not measured here")
    checked = [row.psnr_vs_simulated_db for row in result.rows if row.psnr_vs_simulated_db is not None]
    if checked:
        lines.append(f"values: on one small picture each backend is {min(checked):.1f} dB or more from the same graph simulated")
    lines += [f"(!) refused: {refusal}" for refusal in result.refused]
    lines += [
        f"(!) not {row.precision}: {row.graph} on {row.backend} ran in {_shares(row)}"
        for row in result.rows
        if not row.precision_verified
    ]
    lines += [
        f"(!) {row.graph} on {row.backend}: {equal} of {row.images} pictures came out equal to the "
        "truth; PSNR and dB lost are of the others"
        for row in result.rows
        if (equal := sum(one.psnr_db is None for one in row.scores))
    ]
    lines += [
        f"(!) flattered: {row.graph} on {row.backend} was calibrated on {row.calibration_images_evaluated} of these pictures"
        for row in result.rows
        if row.calibration_images_evaluated
    ]
    return lines


def _latency_notes(result: Result) -> list[str]:
    """Return how latencies were taken, and of which backends none was."""
    timed = [row.latency for row in result.rows if row.latency is not None]
    emulated = dict.fromkeys(row.backend for row in result.rows if row.latency is None)
    shapes = " and ".join(dict.fromkeys("×".join(str(size) for size in latency.shape) for latency in timed))
    lines = [
        f"latency: median of {first.n} after {first.warm_up}, input {shapes}, {first.threads} threads, "
        f"cases in turn; × fp32: of the fastest fp32 here{_percentiles_left_out(first.n)}"
        for first in timed[:1]
    ]
    return [*lines, *(f"{backend}: {EMULATED}" for backend in emulated)]


def _percentiles_left_out(runs: int) -> str:
    missing = [f"p{percentile} ({enough})" for percentile, enough in ENOUGH_RUNS.items() if runs < enough]
    return f"; too few runs to tell {' or '.join(missing)}" if missing else ""


def _device_notes(row: Row) -> list[str]:
    """Return what the accelerator's own clock says, and the state it was in."""
    timed = row.device_latency
    if timed is None:
        return []
    case = f"{row.graph} on {row.backend}"
    lines = [
        f"{case}, CUDA events: network alone {timed.network_p50_ms:.3f} ms, with copies from and to pinned host memory "
        f"{timed.with_copies_p50_ms:.3f} ms, median of {timed.n}; p50 ms above is the caller's clock, copies included"
    ]
    states = [", ".join(f"{name} {value}" for name, value in state.items()) for state in (timed.before, timed.after)]
    if any(states):
        lines.append(f"{case}, GPU before: {states[0] or 'not told'}; after: {states[1] or 'not told'}")
    return lines


def _shares(row: Row) -> str:
    shares = [f"{name} {share_text(share)}" if share < 1 else name for name, share in row.precision_ran.items() if share]
    return " + ".join(shares)


def _decibels(value: float | None, digits: int) -> str:
    return "∞" if value is None else f"{value:.{digits}f}"
