"""The weights that a short training gave each architecture, kept as float16 beside the definitions."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from export.models import Network

WEIGHTS = Path(__file__).parent / "weights"


def weights_file(network: Network) -> Path:
    """Where they are: weights/NAME_xSCALE.safetensors."""
    return WEIGHTS / f"{network.name}_x{scale_of(network)}.safetensors"


def scale_of(network: Network) -> int:
    """The one scale an architecture here is built for."""
    (scale,) = network.scales
    return scale


def build_trained(network: Network) -> nn.Module:
    """The architecture with its weights, float32, in evaluation mode; the same bytes each time."""
    module = network.build(scale_of(network))
    state = safetensors.torch.load_file(weights_file(network))
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return module.eval()


def pack_weights(module: nn.Module) -> bytes:
    """What `weights_file` holds: every tensor as float16."""
    return safetensors.torch.save({name: tensor.to(torch.float16).contiguous() for name, tensor in module.state_dict().items()})
