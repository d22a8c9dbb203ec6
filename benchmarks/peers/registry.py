"""List the peers: other people's quantizers of ONNX graphs, the versions that are measured, and the settings.

Settings are the published ones that lose least; each script in `scripts/` says where they are published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import UnknownNameError

SCRIPTS = Path(__file__).with_name("scripts")


@dataclass(frozen=True)
class Peer:
    """A quantizer, and what runs it.

    Attributes:
        name: what the command line calls it.
        package: the package whose version is told.
        script: runs in the peer's environment, as `scripts/__init__.py` describes.
        settings: what the script takes for its last argument.
        requirements: what pip installs into an environment of the peer's own; none: it runs in this one.
    """

    name: str
    package: str
    script: Path
    settings: tuple[str, ...]
    requirements: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> tuple[str, ...]:
        """What the command line calls its settings, one by one."""
        return tuple(f"{self.name}: {setting}" for setting in self.settings)


_TORCH = "torch==2.13.0"
PEERS: tuple[Peer, ...] = (
    Peer("onnxruntime", "onnxruntime", SCRIPTS / "quantize_onnxruntime.py", ("percentile", "min-max")),
    Peer(
        "nncf",
        "nncf",
        SCRIPTS / "quantize_nncf.py",
        ("default", "min-max", "accuracy control"),
        ("nncf==3.4.0", "openvino==2026.4.1", "onnx==1.23.2", "numpy==2.4.6"),
    ),
    Peer(
        "quark",
        "amd-quark",
        SCRIPTS / "quantize_quark.py",
        ("bias correction", "adaround", "adaquant"),
        ("amd-quark==0.13", _TORCH, "onnxruntime==1.31.1", "onnx==1.22.0", "numpy==2.4.6"),
    ),
    Peer(
        "aimet",
        "aimet-onnx",
        SCRIPTS / "quantize_aimet.py",
        ("cle", "adaround", "sequential mse"),
        ("aimet-onnx==2.42.0", _TORCH, "onnxruntime==1.32.0", "onnx==1.23.2", "numpy==2.4.6"),
    ),
    Peer(
        "modelopt",
        "nvidia-modelopt",
        SCRIPTS / "quantize_modelopt.py",
        ("max", "entropy"),
        ("nvidia-modelopt[onnx]==0.47.0", _TORCH, "onnxruntime-gpu==1.24.4"),
    ),
)


def find_rows(names: list[str] | None) -> list[tuple[Peer, str]]:
    """Return the peers and settings of those names, `nncf` or `nncf: min-max`, or all; UnknownNameError lists the valid ones."""
    every = [(peer, setting) for peer in PEERS for setting in peer.settings]
    for name in names or ():
        if not any(name in (peer.name, f"{peer.name}: {setting}") for peer, setting in every):
            valid = [*(peer.name for peer in PEERS), *(row for peer in PEERS for row in peer.rows)]
            raise UnknownNameError("peer", name, valid=valid)
    return [(peer, setting) for peer, setting in every if names is None or {peer.name, f"{peer.name}: {setting}"} & {*names}]
