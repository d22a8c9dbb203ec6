"""Export a checkpoint of an unknown network: a state dict in, a graph that agrees with torch out; by spandrel.

spandrel (https://github.com/chaiNNer-org/spandrel) tells some forty architectures by the keys and shapes of a state dict. The file
is read here, with weights_only: spandrel is given tensors. torch's TorchScript-based exporter comes first, because the newer one
takes minutes for transformers and crashes on SPAN (torch 2.14.1); what a trace burnt in shows on pictures of other sizes.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.export import Dim

from export.checkpoints import load_state_dict
from export.foreign import Foreign, read_foreign
from export.models import Network
from export.onnx_export import NATIVE_OPSET
from export.parity import TOLERANCE, run_torch
from export.weights import describe_state_dict, find_fitting
from runtime.backends import open_backend
from runtime.errors import PipelineError, SredgeError, UserError, WeightsError

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_OTHERWISE = "export it to ONNX yourself, and give that file: python -m export FILE.onnx --scale 2"
_AXES = {0: "batch", 2: "height", 3: "width"}
_TRACING: Mapping[str, Any] = {
    "always": {"dynamo": False, "opset_version": 17},  # the newest that it writes without converting
    "free": {"dynamic_axes": {"input": _AXES}},
}
_EXPORTING: Mapping[str, Any] = {
    "always": {"dynamo": True, "opset_version": NATIVE_OPSET, "external_data": False, "verbose": False},
    "free": {"dynamic_shapes": (dict.fromkeys(_AXES, Dim.AUTO),)},
}
_TRACED, _OTHER_SIZES = (64, 96), ((48, 40), (37, 53))  # (H, W), in whole multiples of what the architecture asks for


@dataclass(frozen=True)
class FoundNetwork:
    """A checkpoint's network.

    Attributes:
        module: (N, C, H, W) in [0, 1] -> (N, C, H·scale, W·scale), with the checkpoint's weights, in evaluation mode.
        architecture: what spandrel calls it.
        scale: how many times larger the picture becomes.
        channels: C, 1 or 3.
        multiple_of, least_side: of height and width, what the architecture asks for.
    """

    module: nn.Module
    architecture: str
    scale: int
    channels: int
    multiple_of: int
    least_side: int

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (H, W) next to `size` that the architecture takes."""
        step = self.multiple_of
        height, width = (-(-max(side, self.least_side) // step) * step for side in size)
        return height, width


def find_architecture(path: Path) -> FoundNetwork:
    """Find the super-resolution network that the checkpoint `path` is of, by spandrel.

    Raises:
        WeightsError: the file cannot be read, or no architecture fits it.
        UserError: spandrel cannot be imported, or the network does something else than enlarge pictures.
    """
    state = load_state_dict(path)
    try:
        import spandrel  # torchvision: loaded where it is wanted
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise UserError(
            f"{path}: {describe_state_dict(state)}; spandrel, which knows others, cannot be imported ({_first_line(error)})",
            hint=f"pip install 'sredge[spandrel]'; or {_OTHERWISE}",
        ) from error
    try:
        found = spandrel.ModelLoader().load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise WeightsError(
            f"{path} fits no architecture that spandrel knows; {describe_state_dict(state)}", hint=_OTHERWISE
        ) from error
    name = f"{path} is {found.architecture.name}"
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.scale < 2:
        raise UserError(f"{name}, which does not enlarge pictures", hint="give a super-resolution network")
    if found.input_channels != found.output_channels or found.input_channels not in (1, 3):
        channels = f"{found.input_channels} channels and gives {found.output_channels}"
        raise UserError(f"{name}, which takes {channels}, expected 1 or 3 of both", hint="give a network of pictures")
    needs = found.size_requirements
    return FoundNetwork(
        module=found.model.float().eval(),
        architecture=found.architecture.name,
        scale=found.scale,
        channels=found.input_channels,
        multiple_of=max(needs.multiple_of, 1),
        least_side=max(needs.minimum, 1),
    )


def find_own(path: Path, *, scale: float | None) -> tuple[Network, float] | None:
    """Return the network of sredge's own that the checkpoint `path` is of, and its scale; None where it is another's.

    Raises:
        WeightsError: the file cannot be read.
        UserError: it has those keys at several scales, and `scale` is None.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file", hint="give the path of a .pth or .safetensors file")
    fitting = find_fitting(load_state_dict(path))
    if fitting is None:
        return None
    network, scales = fitting
    if scale is None and (len(scales) > 1 or network.pre_upscale):
        raise UserError(
            f"{path} is {network.name}, of {network.describe_scales()}; --scale is missing", hint=f"--scale {scales[0]}"
        )
    return network, scales[0] if scale is None else scale


def read_checkpoint(path: Path, *, scale: float | None, static: tuple[int, int] | None = None) -> Foreign:
    """Return the network of the checkpoint `path`, traced for any size or for one of `static` (H, W), and held against torch.

    Raises:
        WeightsError, UserError: as `find_architecture` does; another scale; or it cannot be traced.
        PipelineError: the graph gives something else than torch for another size.
    """
    found = find_architecture(path)
    if scale not in (None, found.scale):
        raise UserError(f"{path} is {found.architecture} x{found.scale}, not x{scale:g}", hint=f"--scale {found.scale}")
    failed: list[SredgeError] = []
    for exporter in (_TRACING, _EXPORTING):
        try:
            return _through_onnx(found, path, exporter=exporter, static=static)
        except (UserError, PipelineError) as error:
            failed.append(error)
    raise failed[0]


def _through_onnx(found: FoundNetwork, path: Path, *, exporter: Mapping[str, Any], static: tuple[int, int] | None) -> Foreign:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.with_suffix(".onnx").name
        _write(found, file, exporter, size=found.size(static or _TRACED), free=static is None)
        foreign = read_foreign(
            file, scale=found.scale, order="Y" if found.channels == 1 else "RGB", value_range=(0.0, 1.0), static=static
        )
    run = partial(run_torch, found.module)
    notes = (f"{found.architecture} x{found.scale}, found by spandrel", *foreign.notes)
    if static is None:
        _check(found, foreign)
    return replace(foreign, run_original=run, run_exact=run, notes=notes)


def _write(found: FoundNetwork, file: Path, exporter: Mapping[str, Any], *, size: tuple[int, int], free: bool) -> None:
    what = "any size" if free else f"{size[0]}×{size[1]}"
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                found.module,
                (torch.zeros(1, found.channels, *size),),
                file,
                input_names=["input"],
                output_names=["output"],
                **exporter["always"],
                **(exporter["free"] if free else {}),
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise UserError(
            f"torch cannot export {found.architecture} for {what}: {_first_line(error)}",
            hint="--static 128x128 fixes the size" if free else _OTHERWISE,
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal what exporters say: warnings, and the whole graph, from C++, where the tracing one fails."""
    sys.stdout.flush()
    with warnings.catch_warnings(), tempfile.TemporaryFile() as nowhere, ExitStack() as stack:
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, level)
        for stream in (1, 2):
            kept = os.dup(stream)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, stream)
            os.dup2(nowhere.fileno(), stream)
        yield


def _check(found: FoundNetwork, foreign: Foreign) -> None:
    """Raise PipelineError where the graph and torch differ on a picture of another size than it was traced with."""
    with open_backend("onnxruntime", ir.to_proto(foreign.model).SerializeToString(), precision="fp32") as backend:
        for size in _OTHER_SIZES:
            array = np.random.default_rng(0).random((1, found.channels, *found.size(size)), np.float32)
            difference = float(np.abs(backend.run(array) - run_torch(found.module, array)).max())
            if not difference <= TOLERANCE:
                raise PipelineError(
                    f"{found.architecture} as traced differs from torch by {difference:.1e} on {array.shape[2]}×{array.shape[3]}: "
                    "the size it was traced with is part of it",
                    hint="--static 128x128 fixes the size",
                )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
