"""The class that a device app embeds: `Upscaler` opens a bundle, compiles a graph and upscales pictures of any size."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Generic

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from .backends import Backend, DeviceTimer, DeviceTimes, Values, open_backend
from .batch.allowance import Allowance
from .bundle import ENGINES, Bundle, Contract, Io, Variant
from .errors import BackendError, ImageError
from .pictures.bicubic import Samples
from .pictures.pixels import AnyPicture, check_picture
from .targets import Precision
from .tiles.bands import Bands, OnTile, run_bands
from .tiles.memory import default_budget
from .tiles.ordered import in_order
from .tiles.plan import Plan, plan_run
from .tiles.seams import SeamError
from .verify.pairs import AUTO, Pair, find_pairs
from .verify.precision import PrecisionReport, verify_precision
from .verify.value_check import ValueCheck, Verify, check_values

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upscaled(Generic[Samples]):
    """A picture's output, and what running it in tiles cost: None where the tiles are exact."""

    pixels: NDArray[Samples]
    seam_error: SeamError | None


class Upscaler:
    """A bundle's network, compiled and ready. A context manager; `close` frees the compiled graph.

    Several threads may use it: `parallel` runs of the network happen at a time, further ones wait.

    Attributes:
        bundle: the opened bundle.
        variant: the graph of it that runs.
        backend_name: the backend that runs it.
        value_check: how near the backend is to the graph simulated; None where that was not to be checked, or no picture fits.
        parallel: runs of the network at a time.
        allowance: of `memory_bytes`, for whoever decodes and encodes pictures too; without limit where it was None.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        backend: Backend,
        *,
        tile: int | None = None,
        memory_bytes: int | None = None,
        parallel: int = 1,
    ) -> None:
        self.bundle = bundle
        self.variant = variant
        self.backend_name = backend.name
        self.parallel = parallel
        self.value_check: ValueCheck | None = None
        self._last = threading.local()
        self._backend: Backend | None = backend
        self._limits = backend.limits
        self._tile = tile
        self._memory_bytes = default_budget() if memory_bytes is None else memory_bytes
        self.allowance = Allowance(memory_bytes)

    @classmethod
    def open(
        cls,
        bundle: Path | str | Bundle,
        *,
        precision: Precision | None = None,
        io: Io | None = None,
        target: str | None = None,
        backend: str = AUTO,
        device: str | None = None,
        threads: int | None = None,
        parallel: int = 1,
        cache: Path | str | None = None,
        tile: int | None = None,
        memory_bytes: int | None = None,
        verify: Verify = "once",
    ) -> Upscaler:
        """Open a bundle's graph of `precision` on `backend`, which must compute that graph faithfully.

        Args:
            bundle: its folder, or an opened one.
            precision: None takes int8 where the bundle has it, else fp32.
            io: what the graph takes and gives, floats, or raw 8-bit pixels with the same result; None takes floats where the bundle
                has that graph.
            target: the accelerator that the graph was made for; None takes any.
            backend: "auto" takes the best of those that compute such a graph faithfully (see `find_pairs`), and the next where
                one does not open.
            device: as the backend calls it; None is the CPU, of tensorrt the first GPU.
            threads: of the backend; None leaves it to the backend. tensorrt has none.
            parallel: runs of the network at a time: tiles, frames of `stream`, calls from several threads.
            cache: a folder where openvino and onnxruntime-rtx keep compiled graphs for the next start; None: none. What `verify`
                found is remembered there too; with None in the user's own cache folder.
            tile: pixels of the network's input that a tile keeps a side; None takes the largest that `memory_bytes` allows. A
                network that looks at the whole picture runs whole unless a tile is asked for; `upscale` says what that cost.
            memory_bytes: what tiles may take, beside the picture and its output; None: a quarter of what is free now.
            verify: whether a small picture is run and held against the same graph simulated: "once" on each machine, for each
                graph and version of the backend, "always", or "never".

        Raises:
            BundleError: no valid bundle there, or it has no such graph.
            UnknownNameError, BackendError: no such backend, not installed, unable to run the graph, or found to compute it wrongly.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
        if tile is not None and tile < 1:
            raise ImageError(f"a tile of {tile} pixels: expected 1 or more")
        pairs = find_pairs(opened, precision=precision, io=io, target=target, backend=backend)
        left_out = [str(one) for one in opened.manifest.variants if one.precision == "int8" and target in (None, one.target)]
        if precision is None and left_out and pairs[0].variant.precision != "int8":
            _log.warning("running %s: %s is not for that backend", pairs[0], ", ".join(dict.fromkeys(left_out)))
        folder = None if cache is None else Path(cache)

        def open_pair(pair: Pair) -> Upscaler:
            compiled = open_backend(
                pair.backend.name,
                opened.read(pair.variant),
                precision=pair.variant.precision,
                threads=threads,
                parallel=parallel,
                device=device,
                cache=folder,
                engines=None if opened.packed is not None else opened.directory / ENGINES,
                io=pair.variant.io,
            )
            upscaler = cls(opened, pair.variant, compiled, tile=tile, memory_bytes=memory_bytes, parallel=parallel)
            with ExitStack() as stack:
                stack.enter_context(upscaler)
                if upscaler._has_room():
                    upscaler.value_check = check_values(compiled, opened, pair.variant, verify=verify, cache=folder, device=device)
                stack.pop_all()
            return upscaler

        return _open_first(pairs, open_pair)

    def __call__(self, picture: NDArray[Samples]) -> NDArray[Samples]:
        """(H, W, 3) uint8 RGB -> (H·scale, W·scale, 3) uint8 RGB, to the nearest pixel.

        Likewise (H, W) or (H, W, 1) grey, (H, W, 2) grey with alpha and (H, W, 4) RGB with alpha, not premultiplied, and uint16:
        what comes out is of the kind that went in. Alpha is enlarged bicubically.

        Raises:
            ImageError: another shape or type, an empty picture, or more than the memory allowed.
        """
        return self.upscale(picture).pixels

    def upscale(self, picture: NDArray[Samples]) -> Upscaled[Samples]:
        """Return what a call gives, and the seam error of this very picture.

        Raises:
            ImageError: as a call does.
        """
        plan = self.plan(picture)
        with self._run_bands(picture, plan) as bands:
            if len(plan.rows) == 1:
                (output,) = bands
            else:
                output = np.empty((*plan.size, *picture.shape[2:]), picture.dtype)
                top = 0
                for band in bands:
                    output[top : top + len(band)] = band
                    top += len(band)
        self._last.seam_error = bands.seam_error
        return Upscaled(output, bands.seam_error)

    @property
    def seam_error(self) -> SeamError | None:
        """The seam error of the last picture that this thread called the Upscaler with.

        `upscale` and `bands` give theirs directly.
        """
        return getattr(self._last, "seam_error", None)

    def bands(self, picture: NDArray[Samples], *, held_bytes: int = 0, on_tile: OnTile | None = None) -> Bands[Samples]:
        """Return what a call gives, from top to bottom in pieces of whole rows, (n, W·scale, …): the output need not fit in memory.

        After the last piece `seam_error` is the picture's.

        Args:
            held_bytes: of the memory, what is taken already.
            on_tile: called after each tile, by the thread that takes pieces.

        Raises:
            ImageError: as a call does, before the first piece.
        """
        return self._run_bands(picture, self.plan(picture, held_bytes=held_bytes), on_tile=on_tile)

    def stream(self, frames: Iterable[NDArray[Samples]]) -> Iterator[NDArray[Samples]]:
        """Yield what a call gives for each frame, in their order; the next ones run while one is being used.

        Raises:
            ImageError: a frame is no picture, at its place in the order.
        """
        return in_order(self, frames, workers=self.parallel + 1)

    def plan(self, picture: AnyPicture, *, held_bytes: int = 0) -> Plan:
        """Return the tiles in which a picture of that shape and type would run, `held_bytes` of the memory being taken already.

        Raises:
            ImageError: as a call does.
        """
        check_picture(picture)
        if self.variant.io == "uint8" and picture.dtype != np.uint8:
            raise ImageError(
                f"this {self.variant.precision} graph takes raw 8-bit pixels, and the picture has {picture.dtype} ones",
                hint="convert it to 8 bits, or run the graph of floats, --io float32, where the bundle has that",
            )
        sample_bytes = picture[:1, :1].nbytes
        return plan_run(
            self.bundle.manifest,
            (picture.shape[0], picture.shape[1]),
            sample_bytes=sample_bytes,
            tile=self._tile,
            budget_bytes=self._memory_bytes,
            parallel=self.parallel,
            limits=self._limits,
            held_bytes=held_bytes,
            backend=self.backend_name,
        )

    def run(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network itself: (N, C, H, W) float32 in [0, 1] -> (N, C, H·scale, W·scale) float32, not clipped, never in
        tiles.

        A graph of raw pixels has no such thing; call the Upscaler with a picture.

        Where the contract says `pre_upscale`, the input is enlarged already and the output has its size.

        Raises:
            ImageError: another shape or type, values out of range or NaN, or a size or batch that the graph does not take.
        """
        contract = self.bundle.manifest.contract
        if self.variant.io != "float32":
            raise ImageError(
                "this graph takes raw pixels, not floats", hint="call the Upscaler with a picture, or open io='float32'"
            )
        if array.dtype != np.float32 or array.ndim != 4 or array.shape[1] != contract.channels or 0 in array.shape:
            raise ImageError(f"expected a (N, {contract.channels}, H, W) float32 array, got {array.shape} {array.dtype}")
        low, high = float(array.min()), float(array.max())  # NaN where there is one
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ImageError(f"expected values in [0, 1], got {low:g} to {high:g}")
        _check_sizes(array.shape, contract)
        return self._opened().run(array)

    def time_on_device(self, array: NDArray[Values], count: int) -> DeviceTimes | None:
        """Times so many runs of `array` by the accelerator's own clock; None where the backend has none.

        `array` is what the graph takes: floats as `run` does, or of raw pixels (N, H, W, C) uint8.
        """
        backend = self._opened()
        return backend.time_on_device(array, count) if isinstance(backend, DeviceTimer) else None

    @cached_property
    def precision_report(self) -> PrecisionReport:
        """What every layer really ran in; the first look may run the graph once."""
        return verify_precision(self.bundle.manifest, self.variant, self._opened().precisions())

    def close(self) -> None:
        """Free the compiled graph; closing twice does nothing."""
        if self._backend is not None:
            self._backend.__exit__(None, None, None)
        self._backend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run_bands(self, picture: NDArray[Samples], plan: Plan, *, on_tile: OnTile | None = None) -> Bands[Samples]:
        if any(plan.filled_in):
            _log.warning("%s", _describe_filling(plan, halo=self.bundle.manifest.halo))
        manifest = self.bundle.manifest
        return run_bands(self._opened(), manifest, picture, plan, io=self.variant.io, parallel=self.parallel, on_tile=on_tile)

    def _has_room(self) -> bool:
        """Return whether any picture fits into memory: a graph or an engine of one size may be larger than what is allowed."""
        try:
            self.plan(np.zeros((1, 1, 3), np.uint8))
        except ImageError:
            return False
        return True

    def _opened(self) -> Backend:
        if self._backend is None:
            raise BackendError("this Upscaler is closed", hint="open another with Upscaler.open")
        return self._backend


def _open_first(pairs: Sequence[Pair], open_pair: Callable[[Pair], Upscaler]) -> Upscaler:
    """Return the first that opens; says which did not, and of which precision it is where that is not the first one's."""
    failed: list[BackendError] = []
    for index, pair in enumerate(pairs):
        try:
            opened = open_pair(pair)
        except BackendError as error:
            failed.append(error)
            if index + 1 < len(pairs):
                _log.warning("%s: %s; next: %s", pair, error, pairs[index + 1])
        else:
            _log.info("opened %s", pair)
            return opened
    raise failed[0]


def _check_sizes(shape: tuple[int, ...], contract: Contract) -> None:
    """Raise ImageError for (N, C, H, W) that the graph does not take."""
    fixed, whole = contract.static_shape, "call the Upscaler with a picture"
    if fixed is not None and (shape[0], *shape[2:]) != (1, *fixed):
        raise ImageError(
            f"this graph takes one {fixed[0]}×{fixed[1]} picture (height×width) at a time, got {shape}",
            hint=f"export it without --static for any size, or {whole}, which it cuts into tiles",
        )
    if contract.one_at_a_time and shape[0] != 1:
        raise ImageError(f"this graph takes one picture at a time, got {shape}", hint="give it a batch of 1, once per picture")
    size = (shape[2], shape[3])
    if contract.filled_size(size) != size:
        raise ImageError(
            f"this graph takes {contract.sizes} (height and width), got {shape[2]}×{shape[3]}",
            hint=f"{whole}, which it fills up and crops",
        )


def _describe_filling(plan: Plan, *, halo: int | str) -> str:
    assert plan.fixed is not None
    rows, columns = plan.filled_in
    return (
        f"this graph takes {plan.fixed[0]}×{plan.fixed[1]} (height×width): {rows} rows and {columns} columns are filled in, "
        f"which is {plan.overhead:.0%} of the arithmetic; within {halo} pixels of them it is not what a graph for any size gives"
    )
