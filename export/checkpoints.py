"""Read a checkpoint file: .pth, .pt, .safetensors or .onnx in, tensors by key out; pickled code never runs.

Nothing here unpickles code: .pth files are loaded with weights_only.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.protobuf.message
import onnx
import safetensors
import safetensors.torch
import torch

from export.state_dicts import StateDict, best_fitting, find_state_dicts
from runtime.errors import WeightsError

GIVE_A_FILE = "give the path of a .pth or .pt state dict or a .safetensors file"


def load_state_dict(path: Path, *, count_fitting: Callable[[StateDict], int] = len) -> StateDict:
    """Tensors by key from a .safetensors, .onnx or .pth file; of several state dicts in it, that of which most tensors fit.

    Raises:
        WeightsError: the file cannot be read, holds no state dict, or several that fit alike.
    """
    found = find_state_dicts(load_checkpoint(path))
    if not found:
        raise WeightsError(f"{path} holds a dictionary, expected a state dict: tensors by key", hint=GIVE_A_FILE)
    best = best_fitting(found, count_fitting)
    if len(best) > 1:
        raise WeightsError(
            f"{path} holds several state dicts, none of which fits better than the others: {', '.join(best)}",
            hint=f"save the one you mean by itself: torch.save(torch.load({path.name!r})[{best[0]!r}], 'weights.pth')",
        )
    return found[best[0]]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a .safetensors, .onnx (its initializers) or .pth file holds.

    The last with weights_only, so that no code in it runs.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix == ".onnx":
            return _initializers(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a checkpoint of tensors alone: it is another kind of file, or holds objects that could run code",
            hint=GIVE_A_FILE,
        ) from error
    except (safetensors.SafetensorError, google.protobuf.message.DecodeError, EOFError, RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{path} cannot be read as a checkpoint: {reason}", hint="is the file complete? download or copy it again"
        ) from error
    except (KeyError, zipfile.BadZipFile, AttributeError, IndexError, TypeError) as error:  # what torch raises on other bytes
        raise WeightsError(
            f"{path} is not a checkpoint ({type(error).__name__} while reading it)",
            hint=GIVE_A_FILE,
        ) from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds {type(loaded).__name__}, expected a state dict: tensors by key", hint=GIVE_A_FILE)
    return dict(loaded)


def _initializers(path: Path) -> StateDict:
    """Return the weights stored in an ONNX file, by name; none outside it are followed."""
    model = onnx.load_model(path, load_external_data=False)
    tensors = [tensor for tensor in model.graph.initializer if not onnx.external_data_helper.uses_external_data(tensor)]
    return {tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in tensors}
