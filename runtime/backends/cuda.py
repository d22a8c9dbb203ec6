"""Use CUDA through pycuda: a GPU's primary context, buffers, and graphs of captured work.

TensorRT works in the primary context, so that is the one taken. pycuda has no calls for graphs; those are the driver's own.
https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__GRAPH.html
"""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray
from typing_extensions import Self

from ..errors import BackendError

_NO_GPU = (
    "nvidia-smi shows what the driver sees; on a Jetson the user must be in the groups video and render; in a container, run it "
    "with --gpus all or --runtime nvidia; without a GPU: --backend openvino"
)
_DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
_CAPTURE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile


class Gpu:
    """One GPU; a context manager that keeps its primary context for as long as it is entered, once.

    Attributes:
        name: as the driver calls it.
        compute_capability: (major, minor).
        driver: the CUDA version that the driver knows, and its own where the system tells.
    """

    def __init__(self, device: str | None = None) -> None:
        """Find "cuda", "cuda:N" or "N"; None is the first. Nothing is taken of the GPU until it is entered.

        Raises:
            BackendError: no such GPU, or none at all.
        """
        try:
            cuda.init()
            known = [cuda.Device(number).name() for number in range(cuda.Device.count())]
            index = (device or "cuda:0").removeprefix("cuda").removeprefix(":") or "0"
            if not index.isdecimal() or int(index) >= len(known):
                here = ", ".join(f"cuda:{number} ({name})" for number, name in enumerate(known))
                raise BackendError(
                    f"no GPU {device}; this machine has: {here or 'none'}", hint="--device cuda:0" if known else _NO_GPU
                )
            self._device = cuda.Device(int(index))
            self.name: str = self._device.name()
            self.compute_capability: tuple[int, int] = self._device.compute_capability()
            self.driver = _describe_driver(cuda.get_driver_version())
        except cuda.Error as error:
            raise BackendError(f"no NVIDIA GPU can be used here: {error}", hint=_NO_GPU) from error

    def __enter__(self) -> Self:
        try:
            self._context = self._device.retain_primary_context()
        except cuda.Error as error:
            raise BackendError(f"CUDA on {self.name}: {error}", hint=_hint(error)) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Release the primary context, in whichever thread.

        pycuda releases a context only in the thread that retained it or where it is current, so it is made current here. It then
        takes it for popped by the release, which CUDA does not do to a primary context: it is popped here.
        https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__PRIMARY__CTX.html
        """
        self._context.push()
        _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        self._context.detach()

    @contextmanager
    def current(self) -> Iterator[None]:
        """The GPU's context is this thread's for a while; what is made on the GPU is made, used and dropped in here.

        Raises:
            BackendError: a call of CUDA failed.
        """
        try:
            self._context.push()
            try:
                yield
            except BaseException as error:
                # What the functions that failed had made on the GPU would live as long as the error, and outlive the context.
                traceback.clear_frames(error.__traceback__)
                raise
            finally:
                self._context.pop()
        except cuda.Error as error:
            raise BackendError(f"CUDA on {self.name}: {error}", hint=_hint(error)) from error


@dataclass
class Buffers:
    """Pinned memory of the host and memory of the device, for one input and one output."""

    host_input: NDArray[np.float32 | np.uint8]
    host_output: NDArray[np.float32 | np.uint8]
    device_input: Any
    device_output: Any

    @classmethod
    def allocate(
        cls, input_shape: tuple[int, ...], output_shape: tuple[int, ...], dtype: type[np.float32] | type[np.uint8]
    ) -> Buffers:
        host = [cuda.pagelocked_empty(shape, dtype) for shape in (input_shape, output_shape)]
        return cls(*host, *(cuda.mem_alloc(array.nbytes) for array in host))

    def copy_in(self, stream: Any) -> None:  # noqa: ANN401 # pycuda has no types
        cuda.memcpy_htod_async(self.device_input, self.host_input, stream)

    def copy_out(self, stream: Any) -> None:  # noqa: ANN401
        cuda.memcpy_dtoh_async(self.host_output, self.device_output, stream)


class CapturedWork:
    """Work of a stream that was captured once and is launched as a whole. Made, launched and closed in the GPU's context."""

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        """Capture what `work` gives to the stream of that handle.

        Raises:
            BackendError: it gives something that cannot be captured.
        """
        self._stream = ctypes.c_void_p(stream)
        self._graph, self._launchable = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        try:
            try:
                work()
            finally:
                _call("cuStreamEndCapture", self._stream, ctypes.byref(self._graph))
            _call("cuGraphInstantiateWithFlags", ctypes.byref(self._launchable), self._graph, ctypes.c_ulonglong(0))
        except BaseException:
            if self._graph:
                _call("cuGraphDestroy", self._graph)
            raise

    def launch(self) -> None:
        _call("cuGraphLaunch", self._launchable, self._stream)

    def close(self) -> None:
        _call("cuGraphExecDestroy", self._launchable)
        _call("cuGraphDestroy", self._graph)


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL(_DRIVER)


def _call(function: str, *arguments: object) -> None:
    result = getattr(_driver(), function)(*arguments)
    if result != 0:
        raise BackendError(f"CUDA: {function} failed with error {result}")


def _describe_driver(version: int) -> str:
    own = Path("/sys/module/nvidia/version")
    known = f"CUDA {version // 1000}.{version % 1000 // 10}"
    try:
        return f"{own.read_text(encoding='ascii').strip()}, {known}"
    except OSError:
        return known


def _hint(error: Exception) -> str:
    if isinstance(error, cuda.MemoryError):
        return "build the engine for smaller windows (--max), run fewer at a time (--parallel), or free memory of the GPU"
    return ""
