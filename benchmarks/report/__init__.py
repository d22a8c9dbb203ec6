"""Write the report: a result in; result.json first, then Markdown, HTML and pictures rendered from it out."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2

from benchmarks.compare import Panel
from benchmarks.report.pictures import draw_latency, draw_panels
from benchmarks.report.table import COLUMNS, bicubic_lines, cells, notes, published_cells
from benchmarks.result import Result
from runtime.errors import UserError
from runtime.files.lock import locked
from runtime.files.whole import write_whole

__all__ = ["RESULT_FILE", "write_report"]

RESULT_FILE = "result.json"
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=jinja2.select_autoescape(["html.jinja"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(result: Result, panels: list[Panel], directory: Path) -> Path:
    """Write the report into `directory` and return the path of its page; result.json is written last.

    Raises:
        UserError: the folder cannot be written.
    """
    images = {"latency.png": draw_latency(result)} if any(row.latency for row in result.rows) else {}
    if panels:
        images["pictures.png"] = draw_panels(panels)
    context = {
        "result": result,
        "columns": COLUMNS,
        "rows": [cells(row) for row in result.rows],
        "published": published_cells(result),
        "bicubic": bicubic_lines(result),
        "notes": notes(result),
    }
    sources = {name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in images.items()}
    files = {
        **images,
        "report.md": _TEMPLATES.get_template("report.md.jinja").render(context, images={n: n for n in images}).encode(),
        "report.html": _TEMPLATES.get_template("report.html.jinja").render(context, images=sources).encode(),
        RESULT_FILE: result.model_dump_json(indent=1).encode() + b"\n",
    }
    try:
        with locked(directory):  # else two reports written at once would be one of pieces of both
            for name, data in files.items():
                write_whole(directory / name, data)
    except OSError as error:
        raise UserError(
            f"cannot write the report to {directory}: {error.strerror or error}", hint="choose a folder with --out"
        ) from error
    return directory / "report.html"
