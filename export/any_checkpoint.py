"""The network that a checkpoint file is of, by spandrel, as an ONNX file's: a state dict in, a graph out that torch agrees with.

spandrel (https://github.com/chaiNNer-org/spandrel) tells some forty architectures by the keys and shapes of a state dict. The file
is read here, with weights_only: spandrel is given tensors. torch's TorchScript-based exporter writes the graph, because the newer one
takes minutes for transformers and crashes on SPAN (torch 2.14.1); what the trace may have burnt in shows on pictures of other sizes.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.checkpoints import load_state_dict
from export.foreign import Foreign, read_foreign
from export.onnx_export import NATIVE_OPSET
from export.parity import TOLERANCE, run_torch
from export.weights import describe_state_dict
from runtime.backends import open_backend
from runtime.errors import PipelineError, UserError, WeightsError

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_OTHERWISE = "export it to ONNX yourself, and give that file: python -m export FILE.onnx --scale 2"
_OPSET = 17  # the newest that the exporter writes without converting
_TRACED, _OTHER_SIZES = (64, 96), ((48, 40), (72, 56))  # (H, W), in whole multiples of what the architecture asks for


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
        """The (H, W) next to `size` that the architecture takes."""
        step = self.multiple_of
        height, width = (-(-max(side, self.least_side) // step) * step for side in size)
        return height, width


def find_architecture(path: Path) -> FoundNetwork:
    """Finds the super-resolution network that the checkpoint `path` is of, by spandrel.

    Raises:
        WeightsError: the file cannot be read, or no architecture fits it.
        UserError: spandrel cannot be imported, or the network does something else than enlarge pictures.
    """
    state = load_state_dict(path)
    try:
        import spandrel  # torchvision: loaded where it is wanted
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise UserError(
            f"{path}: {describe_state_dict(state)}; spandrel, which knows other people's, cannot be imported ({_first_line(error)})",
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


def trace_network(found: FoundNetwork, *, static_shape: tuple[int, int] | None = None) -> Foreign:
    """Traces it, any size or one of `static_shape` (H, W), and holds the graph against torch.

    Raises:
        UserError: it cannot be traced, or the graph gives something else than torch for another size.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "traced.onnx"
        _write(found, file, size=found.size(static_shape or _TRACED), free=static_shape is None)
        foreign = read_foreign(
            file, scale=found.scale, order="Y" if found.channels == 1 else "RGB", value_range=(0.0, 1.0)
        )
    foreign = replace(foreign, run_original=partial(run_torch, found.module))
    if foreign.contract.static_shape is None:
        _check(found, foreign)
    return foreign


def _write(found: FoundNetwork, file: Path, *, size: tuple[int, int], free: bool) -> None:
    axes = {0: "batch", 2: "height", 3: "width"}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad(), redirect_stdout(io.StringIO()):  # it prints the graph where it fails
            warnings.simplefilter("ignore")
            torch.onnx.export(
                found.module,
                (torch.zeros(1, found.channels, *size),),
                file,
                dynamo=False,
                opset_version=min(_OPSET, NATIVE_OPSET),
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": axes} if free else None,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise UserError(
            f"torch cannot trace {found.architecture} {'for any size' if free else f'for {size[0]}×{size[1]}'}: {_first_line(error)}",
            hint="--static 128x128 fixes the size" if free else _OTHERWISE,
        ) from error
    finally:
        logger.setLevel(level)


def _check(found: FoundNetwork, foreign: Foreign) -> None:
    graph = foreign.serialize()
    with open_backend("onnxruntime", graph, precision="fp32") as backend:
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
