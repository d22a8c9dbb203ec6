"""python -m export list: the networks that can be exported, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from export.models import NETWORKS, announced_names, find_outside
from runtime.terminal import console

app = console.application("List the networks, their scales, and the weights there are.")


@app.command()
def list_networks() -> None:
    """List the networks, their scales, and the weights there are."""
    table = Table("network", "scale", "input", "weights", "paper", box=None, header_style="bold", pad_edge=False)
    for network in NETWORKS:
        for scale in network.scales:
            kinds = {"shipped": scale in network.shipped, "published": scale in network.published}
            weights = ", ".join(kind for kind, there in kinds.items() if there) or "export --weights FILE"
            table.add_row(network.name, f"x{scale}", network.colour, weights, network.paper)
        if network.pre_upscale:
            table.add_row(network.name, network.describe_scales(), network.colour, "as above", network.paper)
    for name in announced_names():
        announced = find_outside(name)
        assert announced is not None
        table.add_row(name, announced.describe_scales(), announced.colour, "export --weights FILE", announced.paper)
    console.out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m export list")
