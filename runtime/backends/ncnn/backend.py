"""Run graphs with ncnn: convolutions by Winograd, on the CPU or on a GPU through Vulkan, pictures of a batch one by one.

What a layer ran in is measured, not taken from what was asked for: ncnn quietly computes in float32 where the machine or the layer
has no half precision. A value that ncnn kept in 16 bits is a number of that type: a small run of every layer shows what it wrote.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Lock
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ...bundle.graph_content import GraphContent, read_graph_content
from ...errors import BackendError, BundleError
from ...targets import Precision
from ..backend import BackendOptions, LayerPrecision, Values
from .convert import convert
from .layer_types import layer_types
from .library import ncnn
from .model import OUTPUT, NcnnModel
from .place import Place
from .weight_reader import WeightReader

_log = logging.getLogger(__name__)
# (H, W) of the network that is made when a graph is opened, and shows what its layers run in; the first that the graph takes.
_PROBES = ((48, 64), (64, 64), (8, 8))
_MOST_SIZES = 4  # networks kept of a graph that needs one per size: a tiled picture has four sizes of tile at most
_VULKAN = re.compile(r"Vulkan(?:\.(\d+))?")
_OTHERS = "--backend openvino, or --backend onnxruntime"
_FLOAT32 = 1  # ONNX's number
# All of them, so that an option that a later ncnn turns on does not change fp32.
_SIXTEEN_BITS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")
_TURNED_ON: dict[Precision, tuple[str, ...]] = {"fp16": _SIXTEEN_BITS[:3], "bf16": _SIXTEEN_BITS[3:]}


@dataclass(frozen=True)
class _Network:
    """A network that ncnn has loaded, and the model it was loaded from less its weights."""

    net: ncnn.Net
    model: NcnnModel


def open_graph(graph: bytes, *, precision: Precision, options: BackendOptions) -> NcnnBackend:
    if options.io != "float32":
        raise BackendError("ncnn takes and gives floats here, not raw 8-bit pixels", hint="--io float32, or --backend openvino")
    if options.cache is not None:
        _log.info("ncnn keeps no compiled graphs: it makes its network at each start")
    return NcnnBackend(graph, precision=precision, options=options)


class NcnnBackend:
    """See `runtime.backends.backend.Backend`."""

    name = "ncnn"
    limits = None

    def __init__(self, graph: bytes, *, precision: Precision, options: BackendOptions) -> None:
        self._precision: Precision = precision
        self._gpu = _find_gpu(options.device)
        self._threads = max(options.threads // options.parallel, 1) if options.threads is not None else None
        self._free_places: SimpleQueue[Place] = SimpleQueue()
        for _ in range(options.parallel):
            self._free_places.put(Place())
        self._graph: GraphContent | None = _read(graph)
        if self._graph.input_type != _FLOAT32:
            raise BackendError("ncnn takes graphs of float32 input alone", hint="--io float32, or --backend openvino")
        self._input_shape = self._graph.input_shape
        self._loading = Lock()
        self._networks: dict[tuple[int, int], _Network] = {}
        self._any_size: _Network | None = None
        self._probe = self._find_probe()  # so that a graph that ncnn cannot run is refused here

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._networks = {}
        self._any_size = self._graph = None

    def run(self, array: NDArray[Values]) -> NDArray[Values]:
        wanted = self._input_shape
        fits = array.ndim == 4 and array.dtype == np.float32 and 0 not in array.shape
        if not fits or any(side not in (None, got) for side, got in zip(wanted, array.shape, strict=True)):
            raise BackendError(f"ncnn {ncnn.__version__} cannot run {array.shape} {array.dtype} through a graph of {wanted}")
        places = self._free_places
        place = places.get()
        try:
            network = self._network((array.shape[2], array.shape[3]))
            outputs = [place.run(network.net, picture, (OUTPUT,))[OUTPUT] for picture in array]
        finally:
            places.put(place)
        if outputs[0].shape != network.model.output_shape[1:]:
            expected = network.model.output_shape[1:]
            raise BackendError(f"ncnn gives {outputs[0].shape} where the graph gives {expected}", hint=_OTHERS)
        return np.stack(outputs).astype(array.dtype, copy=False)

    def precisions(self) -> tuple[LayerPrecision, ...]:
        size = self._probe
        channels = self._input_shape[1]
        assert channels is not None
        picture = np.random.default_rng(0).random((channels, *size), np.float32)
        # Light mode frees a blob when it has been read: a network whose blobs are kept is loaded beside the one that runs.
        probe = self._load(self._convert(size), keeps_blobs=True)
        values = Place().run(probe.net, picture, probe.model.blobs())
        return layer_types(probe.model, values, probe.net, precision=self._precision, on_gpu=self._gpu is not None)

    def _find_probe(self) -> tuple[int, int]:
        _, _, height, width = self._input_shape if len(self._input_shape) == 4 else (None,) * 4
        failed: list[BackendError] = []
        for size in dict.fromkeys((height or probe[0], width or probe[1]) for probe in _PROBES):
            try:
                self._network(size)
            except BackendError as error:
                failed.append(error)
            else:
                return size
        raise BackendError(f"ncnn {ncnn.__version__} cannot open this graph: {failed[0]}", hint=failed[0].hint)

    def _network(self, size: tuple[int, int]) -> _Network:
        """Return the network for pictures of that size, which it was held to fit; the ones used last are kept."""
        with self._loading:
            network = self._networks.pop(size, None)
            if network is None:
                model = self._convert(size)
                network = self._load(model) if self._any_size is None else replace(self._any_size, model=model)
                if not model.one_size:
                    self._any_size = network
            self._networks[size] = network
            if len(self._networks) > _MOST_SIZES:
                del self._networks[next(iter(self._networks))]
            return network

    def _convert(self, size: tuple[int, int]) -> NcnnModel:
        if self._graph is None:
            raise BackendError("this backend is closed", hint="open the graph again")
        try:
            return convert(self._graph, size)
        except (ValueError, IndexError, ZeroDivisionError) as error:  # shapes that do not fit one another
            raise BackendError(f"ncnn cannot run a picture of {size[0]}×{size[1]} through this graph: {error}") from error

    def _load(self, model: NcnnModel, *, keeps_blobs: bool = False) -> _Network:
        net = ncnn.Net()
        for name in _SIXTEEN_BITS:
            setattr(net.opt, name, name in _TURNED_ON.get(self._precision, ()))
        net.opt.lightmode = not keeps_blobs
        if self._threads is not None:
            net.opt.num_threads = self._threads
        if self._gpu is not None:
            net.opt.use_vulkan_compute = True
            net.set_vulkan_device(self._gpu)
        reader = WeightReader(model.weights())
        if net.load_param_mem(model.param()) != 0 or net.load_model(reader) != 0 or not reader.read_all:
            raise BackendError(
                f"ncnn {ncnn.__version__} cannot load this graph: it reads layers or weights otherwise than sredge writes them",
                hint=_OTHERS,
            )
        return _Network(net, model)


def _read(graph: bytes) -> GraphContent:
    try:
        return read_graph_content(graph)
    except BundleError as error:
        raise BackendError(f"ncnn {ncnn.__version__} cannot open this graph: {error}", hint=_OTHERS) from error


def _find_gpu(device: str | None) -> int | None:
    """Return the index of the Vulkan device; None of the CPU."""
    if device in (None, "CPU"):
        return None
    named = _VULKAN.fullmatch(str(device))
    if named is None:
        raise BackendError(f"ncnn knows no device {device}", hint="--device CPU, --device Vulkan, or Vulkan.1 for the second GPU")
    count, index = ncnn.get_gpu_count(), int(named[1] or 0)
    if index >= count:
        names = ", ".join(f"Vulkan.{at} ({ncnn.get_gpu_info(at).device_name()})" for at in range(count))
        raise BackendError(f"ncnn finds no {device} here; it has: {names or 'no Vulkan driver'}", hint="--device CPU")
    return index
