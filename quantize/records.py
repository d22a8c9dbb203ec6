"""Record how an int8 graph was made: options in, what the manifest says out, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import calibration
from calibration.ranges import DEFAULT_PERCENTILE, Method
from quantize.options import LAYOUT_STEPS, Effort, Int8Options, find_steps
from runtime.bundle import (
    Option,
    Variant,
    tool_versions,
)
from runtime.targets import Target

_TOOLS = ("onnx", "onnx-ir", "onnxruntime")


def made_of(recorded: Mapping[str, Option], *, calibration_sha256: str) -> str:
    """Return what rounded weights depend on, as JSON in a line; `recorded`, the options in the manifest."""
    without = recorded["without"]
    assert isinstance(without, tuple)
    told = [step for step in without if step not in LAYOUT_STEPS]
    return json.dumps({**recorded, "without": told, "calibration_sha256": calibration_sha256}, sort_keys=True)


def recorded_options(options: Int8Options) -> dict[str, Option]:
    """Return what the manifest says of how an int8 graph was made."""
    return {
        "method": options.method.value,
        "percentile": options.percentile if options.method is Method.PERCENTILE else None,
        "effort": options.effort.value,
        "without": tuple(sorted(options.without)),
        "lifted": tuple(sorted(options.lifted)),
    }


def options_of(variant: Variant, target: Target) -> Int8Options:
    """Return how an int8 graph was made, by what the manifest says of it."""
    recorded = variant.options
    percentile, without, lifted = recorded["percentile"], recorded.get("without", ()), recorded.get("lifted", ())
    assert isinstance(without, tuple)
    assert isinstance(lifted, tuple)
    return Int8Options(
        target=target,
        method=Method(recorded["method"]),
        percentile=percentile if isinstance(percentile, float) else DEFAULT_PERCENTILE,
        effort=Effort(recorded["effort"]),
        without=find_steps(without),
        lifted=frozenset(lifted),
    )


def current_tools() -> dict[str, str]:
    """Return what a quantization made now would record."""
    return tool_versions(_TOOLS, sources=[Path(__file__).parent, Path(str(calibration.__file__)).parent])
