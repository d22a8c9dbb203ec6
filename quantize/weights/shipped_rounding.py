"""Find the rounded weights that come with sredge: how a graph is made in, its weights out (`calibration/shipped/*.safetensors`).

Rounding layers wants pictures; a fresh machine has none. `make calibration-tables` takes these out of the int8 graphs it makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import safetensors
import safetensors.numpy
import typer
from numpy.typing import NDArray

from calibration.shipped_tables import SHIPPED_TABLES
from quantize.graph.qdq import RoundedWeight
from quantize.options import LAYOUT_STEPS
from runtime.bundle import Bundle
from runtime.errors import UserError
from runtime.files.whole import write_whole
from runtime.targets import find_target
from runtime.terminal import console

SHIPPED_TARGET = "cpu"
"""Whose quantizers they were rounded for: their biases make up for its zero points, and ruin the picture with another's."""
_MADE_OF = "made_of"

app = console.application("Take the rounded weights out of a bundle.")


def find_shipped_rounding(made_of: str) -> dict[str, RoundedWeight]:
    """Rounded weights by layer, of the file that was `made_of` this table with these options; none if there is no such file."""
    for path in sorted(SHIPPED_TABLES.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="np") as file:
            if file.metadata().get(_MADE_OF) == made_of:
                parts = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 # it is no mapping
                layers = {key.rpartition(".")[0] for key in parts}
                return {
                    layer: RoundedWeight(parts[f"{layer}.weight"], parts[f"{layer}.scale"], parts[f"{layer}.bias"])
                    for layer in layers
                }
    return {}


def write_rounding(path: Path, rounded: Mapping[str, RoundedWeight], *, made_of: str) -> None:
    """Write weights that were rounded, whole or not at all."""
    parts: dict[str, NDArray[np.generic]] = {}
    for layer, weight in rounded.items():
        parts |= {f"{layer}.weight": weight.weight, f"{layer}.scale": weight.scale, f"{layer}.bias": weight.bias}
    write_whole(path, safetensors.numpy.save(parts, metadata={_MADE_OF: made_of}))


def read_rounding(model: onnx.ModelProto, layers: tuple[str, ...]) -> dict[str, RoundedWeight]:
    """Return the rounded weights that an int8 graph holds."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rounded = {}
    for layer in layers:
        weight, scale = arrays[f"{layer}.weight.quantized"], arrays[f"{layer}.weight.scale"]
        codes, steps = arrays.get(f"{layer}.bias.quantized"), arrays.get(f"{layer}.bias.scale")
        bias = np.zeros(len(scale)) if codes is None or steps is None else codes * steps.astype(np.float64)
        rounded[layer] = RoundedWeight(weight, scale, bias)
    return rounded


@app.command()
def take_rounding(
    directory: Annotated[Path, typer.Argument(metavar="BUNDLE", help=f"the bundle, quantized for {SHIPPED_TARGET}")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="the .safetensors file that is written")],
) -> None:
    """Take the rounded weights out of a bundle's int8 graph."""
    from quantize.records import made_of, options_of  # which imports this module

    bundle = Bundle.open(directory)
    variant = bundle.variant("int8", target=SHIPPED_TARGET)
    assert variant.calibration is not None
    if LAYOUT_STEPS & options_of(variant, find_target(SHIPPED_TARGET)).steps:
        raise UserError(
            f"{variant.file} has its weights laid out for kernels, not as the fp32 graph has them",
            hint="python -m quantize … --without kernel-layouts",
        )
    rounded = read_rounding(onnx.load_model_from_string(bundle.read(variant)), variant.int8_layers)
    made = made_of(variant.options, calibration_sha256=variant.calibration.sha256)
    try:
        write_rounding(out, rounded, made_of=made)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}", hint="a FILE in a folder that is there") from error


def main(arguments: Sequence[str] | None = None) -> None:
    console.run(app, arguments, name="python -m quantize.weights.shipped_rounding")


if __name__ == "__main__":
    main()
