"""The result of a comparison, as data: `--json` writes it and every report is rendered from it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from benchmarks.latency import DeviceLatency, Latency
from benchmarks.machine import Machine
from runtime.bundle import Noun
from runtime.targets import Precision


class ImageScore(Noun):
    """One picture; a PSNR of None stands for equal pictures."""

    name: str
    psnr_db: float | None
    ssim: float


class Row(Noun):
    """One graph on one backend. Means over pictures; `drop_db` is what is lost against fp32 on the reference backend."""

    bundle: str
    model: str
    scale: float
    weights: str
    precision: Precision
    target: str | None
    backend: str
    dataset: str
    protocol: str
    images: int
    psnr_db: float | None
    ssim: float
    drop_db: float | None
    psnr_vs_fp32_db: float | None
    """PSNR of the output itself against fp32's, all channels, clipped to [0, 1]; None where they are equal."""
    latency: Latency | None
    """None where the backend emulates its accelerator."""
    device_latency: DeviceLatency | None = None
    """None where the backend's accelerator has no clock of its own."""
    speedup: float | None
    """The median latency of the fastest fp32, on whatever backend, over this one's, from the same rounds; None without either."""
    macs: int
    int8_mac_share: float
    precision_verified: bool
    precision_ran: dict[str, float]
    """Share of MACs by the precision that the backend says they ran in."""
    psnr_vs_simulated_db: float | None
    """PSNR of what the backend gives for one small picture against the same graph simulated."""
    expected_psnr_vs_simulated_db: float | None
    """The least that is expected of that."""
    size_bytes: int
    peak_rss_bytes: int | None
    """None where the system does not tell."""
    calibration_images_evaluated: int
    """Pictures of this data set that the graph was calibrated on; above 0 only where the user insisted."""
    scores: tuple[ImageScore, ...]

    @property
    def graph(self) -> str:
        """Which of the bundle's graphs it is, in words."""
        return f"{Path(self.bundle).name} {self.precision}{'' if self.target is None else f' for {self.target}'}"


class Baseline(Noun):
    """Bicubic upscaling of the same pictures under the same protocol."""

    bundle: str
    psnr_db: float | None
    ssim: float


class Result(Noun):
    """Everything one comparison found, and the machine it was found on."""

    schema_version: Literal[1] = 1
    key: str
    """sha256 over all that the figures follow from; the same key on the same machine is not measured again."""
    machine: Machine
    reference: str
    protocol: str
    rows: tuple[Row, ...]
    refused: tuple[str, ...] = ()
    """Graphs that did not open on a backend, as "which: why"."""
    bicubic: tuple[Baseline, ...]
