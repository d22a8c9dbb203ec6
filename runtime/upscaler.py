"""The class a device app embeds."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from runtime.backends import Backend, choose_backend, open_backend
from runtime.bundle import Bundle, Variant
from runtime.errors import BackendError, ImageError
from runtime.images import Picture, check_picture, from_network, to_network
from runtime.precision import PrecisionReport, verify_precision
from runtime.targets import Precision, find_target


class Upscaler:
    """A bundle's network, compiled and ready. A context manager; `close` frees the compiled graph.

    It serves one thread at a time; open one a thread.

    Attributes:
        bundle: the opened bundle.
        variant: the graph of it that runs.
        backend_name: the backend that runs it.
    """

    def __init__(self, bundle: Bundle, variant: Variant, backend: Backend) -> None:
        self.bundle = bundle
        self.variant = variant
        self.backend_name = backend.name
        self._backend: Backend | None = backend

    @classmethod
    def open(
        cls,
        bundle: Path | str | Bundle,
        *,
        precision: Precision | None = None,
        backend: str = "auto",
        threads: int | None = None,
    ) -> Upscaler:
        """Opens a bundle's graph of `precision` on `backend` with `threads` threads.

        Args:
            bundle: its folder, or an opened one.
            precision: None takes int8 where the bundle has it, else fp32.
            backend: "auto" takes the fastest installed: the target's own where there is one, else the first of BACKENDS.
            threads: None leaves it to the backend.

        Raises:
            BundleError: no valid bundle there, or it has no such graph.
            UnknownNameError, BackendError: no such backend, not installed, or unable to run the graph.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
        if precision is None:
            precision = "int8" if opened.manifest.find_variant("int8") is not None else "fp32"
        variant = opened.variant(precision)
        preferred = None if variant.target is None else find_target(variant.target).default_backend
        name = choose_backend(backend, preferred=preferred).name
        return cls(opened, variant, open_backend(name, opened.read(variant), precision=precision, threads=threads))

    def __call__(self, picture: Picture) -> Picture:
        """(H, W, 3) uint8 RGB -> (H·scale, W·scale, 3) uint8 RGB, to the nearest pixel.

        Raises:
            ImageError: another shape or type, an empty picture, or not the one shape a fixed graph takes.
        """
        check_picture(picture)
        contract, scale = self.bundle.manifest.contract, self.bundle.manifest.scale
        output = self.run(to_network(picture, contract, scale=scale))
        return from_network(output, contract.colour, source=picture)

    def run(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network itself: (N, C, H, W) float32 in [0, 1] -> (N, C, H·scale, W·scale) float32, not clipped.

        Where the contract says `pre_upscale`, the input is enlarged already and the output has its size.

        Raises:
            ImageError: another shape or type, or not the one shape a fixed graph takes.
        """
        contract = self.bundle.manifest.contract
        if array.dtype != np.float32 or array.ndim != 4 or array.shape[1] != contract.channels or 0 in array.shape:
            raise ImageError(f"expected a (N, {contract.channels}, H, W) float32 array, got {array.shape} {array.dtype}")
        fixed = contract.static_shape
        if fixed is not None and (array.shape[0], *array.shape[2:]) != (1, *fixed):
            raise ImageError(
                f"this graph takes one {fixed[0]}×{fixed[1]} picture (height×width) at a time, got {array.shape}",
                hint="export it without --static for any size",
            )
        return self._opened().run(array)

    @cached_property
    def precision_report(self) -> PrecisionReport:
        """What every layer really ran in; the first look may run the graph once."""
        return verify_precision(self.bundle.manifest, self.variant, self._opened().precisions())

    def close(self) -> None:
        """Frees the compiled graph; closing twice does nothing."""
        if self._backend is not None:
            self._backend.__exit__(None, None, None)
        self._backend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _opened(self) -> Backend:
        if self._backend is None:
            raise BackendError("this Upscaler is closed", hint="open another with Upscaler.open")
        return self._backend
