"""python -m benchmarks.picture_formats: which layouts of which picture formats are read right, and which are refused for what.

Writes small files of every layout with tifffile, imagecodecs and Pillow, or by hand, and compares what the runtime reads, sample by
sample. Exit 1 where a file is read wrongly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import typer
from rich.table import Table

from benchmarks.picture_formats import picture_files
from benchmarks.picture_formats.verdict import Verdict, judge
from runtime.terminal import console

app = console.application("Which picture files are read right.")


@app.command()
def picture_formats() -> None:
    """Print a table of layouts: read right, or refused for what."""
    rows: dict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    wrong = []
    for file in picture_files():
        verdict = judge(file)
        rows[file.format, file.kind, file.stored.partition(":")[0]].append(verdict)
        if not verdict.right:
            wrong.append(f"{file.label}: {verdict.what}")
    table = Table("format", "pixels", "stored", "layouts", "what became of them", box=None, header_style="bold", pad_edge=False)
    for (kind, pixels, stored), verdicts in rows.items():
        right = sum(verdict.right for verdict in verdicts)
        what = verdicts[0].what if right == len(verdicts) else f"{len(verdicts) - right} WRONG"
        table.add_row(kind, pixels, stored, str(len(verdicts)), f"refused: {what}" if pixels == "refused" else what)
    console.out.print(table)
    for line in wrong:
        typer.echo(f"wrong: {line}", err=True)
    if wrong:
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m benchmarks.picture_formats")
