"""The ways people write a network as ONNX: torch's legacy exporter, its dynamo one, and either kind with fixed sizes."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from export.models import Network
from tests.architectures.weights import build_trained

SIDES = (48, 64)  # (H, W) of the picture a network is traced with, and of the fixed file: what every architecture here takes


@dataclass(frozen=True)
class Exporter:
    """One way to write a network as an .onnx file.

    Attributes:
        name: what the command line calls it.
        write: writes the module, which takes that many channels, to the file.
    """

    name: str
    write: Callable[[nn.Module, int, Path], None]


def _write_legacy(module: nn.Module, channels: int, path: Path) -> None:
    axes = {0: "batch", 2: "height", 3: "width"}
    _export_legacy(module, channels, path, axes={"input": axes, "output": axes})


def _write_fixed(module: nn.Module, channels: int, path: Path) -> None:
    _export_legacy(module, channels, path, axes=None)


def _export_legacy(module: nn.Module, channels: int, path: Path, *, axes: dict[str, dict[int, str]] | None) -> None:
    with _silent():
        torch.onnx.export(
            module,
            (torch.rand(1, channels, *SIDES),),
            path,
            opset_version=17,  # the highest that most published files have
            dynamo=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=axes,
        )


def _write_dynamo(module: nn.Module, channels: int, path: Path) -> None:
    """Height and width as free as the network lets them be: torch.export names multiples where a network wants those."""
    shape = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with _silent():
        torch.onnx.export(
            module,
            (torch.rand(2, channels, *SIDES),),
            path,
            dynamo=True,
            external_data=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=(shape,),
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Both exporters tell of their progress and of what torch will do one day."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


EXPORTERS: tuple[Exporter, ...] = (
    Exporter("legacy", _write_legacy),
    Exporter("dynamo", _write_dynamo),
    Exporter("fixed", _write_fixed),
)


def find_exporter(name: str) -> Exporter:
    """The exporter of that name; KeyError names those that there are."""
    for exporter in EXPORTERS:
        if exporter.name == name:
            return exporter
    raise KeyError(f"no exporter is called {name}; there are {', '.join(exporter.name for exporter in EXPORTERS)}")


def write_onnx(network: Network, exporter: Exporter, path: Path) -> None:
    """Writes the trained architecture as `path`."""
    exporter.write(build_trained(network), network.contract.channels, path)
