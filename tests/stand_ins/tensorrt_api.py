"""An engine that is ONNX Runtime behind the real signatures of TensorRT's Python API, 10 or 11.

It takes the place of `tensorrt` in a process that has SREDGE_STAND_IN in its environment (libraries.py does that): builder, parser,
runtime, engine and context are stand-ins, every call of which is held against the real class; enumerations, data types, and the
classes that ours derive from are the real ones. Further in the environment: SREDGE_FALLBACK, the name of a layer that the inspector
says ran in fp32; SREDGE_SLOW, a file that a build makes when it begins, and then takes a minute; SREDGE_TF32, a build that may use
TF32; SREDGE_NO_BUILD, nothing may be built; SREDGE_FIXED, the name of a weight that cannot be exchanged; SREDGE_REFIT_FAILS, none
can; SREDGE_PARSE_FAILS and SREDGE_BUILD_FAILS, a parser and a builder that refuse.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, cast
from weakref import WeakMethod

import numpy as np
import onnx
import onnxruntime as ort
import tensorrt_bindings as trt

from tests.stand_ins.signatures import Checked, check_call

_MAJOR = int(trt.__version__.partition(".")[0])
_CACHE = f"timings of {trt.__version__}".encode()
_DRIVER = ctypes.CDLL("libcuda.so.1")
_captured: dict[int, WeakMethod[Callable[[], None]]] = {}  # what each graph launches
_launch = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda graph: cast(Callable[[], None], _captured[graph]())())


class _OnGpu:
    """What the driver counts, and must be dropped in a context of the GPU that is still there."""

    def __init__(self) -> None:
        _DRIVER.standin_object(1)

    def __del__(self) -> None:
        _DRIVER.standin_object(-1)


class _Builder:
    def __init__(self, logger: trt.ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> Checked:
        assert flags == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return Checked(trt.INetworkDefinition, _Network())

    def create_builder_config(self) -> Checked:
        return Checked(trt.IBuilderConfig, _Config())

    def create_optimization_profile(self) -> Checked:
        return Checked(trt.IOptimizationProfile, _Profile())

    def build_serialized_network(self, network: Checked, config: Checked) -> bytes | None:
        assert "SREDGE_NO_BUILD" not in os.environ
        monitor, steps = config.does.progress_monitor, 600 if "SREDGE_SLOW" in os.environ else 3
        monitor.phase_start("Building Engine", None, steps)
        if "SREDGE_SLOW" in os.environ:
            Path(os.environ["SREDGE_SLOW"]).touch()
        monitor.phase_start("Timing", "Building Engine", 1)
        for step in range(steps):
            if "SREDGE_SLOW" in os.environ:
                time.sleep(0.1)
            if not monitor.step_complete("Building Engine", step):
                return None
        if "SREDGE_BUILD_FAILS" in os.environ:
            self._logger.log(trt.ILogger.Severity.ERROR, "Could not find any implementation for node conv1")
            return None
        monitor.phase_finish("Timing")
        monitor.phase_finish("Building Engine")
        assert not config.does.flags[trt.BuilderFlag.TF32] or "SREDGE_TF32" in os.environ
        assert config.does.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
        graph = base64.b64encode(network.does.graph).decode()
        asked = config.does
        plan = {
            "graph": graph,
            "profile": asked.profile.shapes,
            "host_code": trt.BuilderFlag.VERSION_COMPATIBLE in asked.flags,
            "refit": trt.BuilderFlag.REFIT in asked.flags,
            "workspace_bytes": asked.workspace_bytes,
            "hardware": asked.hardware_compatibility_level.name,
        }
        return json.dumps(plan).encode()


class _Network:
    graph = b""

    def get_input(self, index: int) -> Checked:
        source = onnx.load_model_from_string(self.graph).graph.input[index]
        tensor = type("Tensor", (), {"name": source.name, "shape": _dims(source)})()
        return Checked(trt.ITensor, tensor)


class _Profile:
    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes = [list(shape) for shape in shapes]


class _Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return _CACHE


class _Config:
    profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE
    progress_monitor: Any = None

    def __init__(self) -> None:
        self.flags = {trt.BuilderFlag.TF32: True}  # as TensorRT has it
        self.cache: Checked | None = None
        self.workspace_bytes: int | None = None

    def clear_flag(self, flag: trt.BuilderFlag) -> None:
        self.flags[flag] = False

    def set_flag(self, flag: trt.BuilderFlag) -> None:
        self.flags[flag] = True

    def set_memory_pool_limit(self, pool: trt.MemoryPoolType, pool_size: int) -> None:
        assert pool == trt.MemoryPoolType.WORKSPACE
        self.workspace_bytes = pool_size

    def add_optimization_profile(self, profile: Checked) -> int:
        self.profile = profile.does
        return 0

    def create_timing_cache(self, serialized: bytes) -> Checked:
        return Checked(trt.ITimingCache, _Cache(serialized))

    def set_timing_cache(self, cache: Checked, ignore_mismatch: bool) -> bool:
        fits = cache.does.data in (b"", _CACHE) or ignore_mismatch
        self.cache = cache if fits else self.cache
        return fits

    def get_timing_cache(self) -> Checked | None:
        return self.cache


class _ReportsErrors:
    _error = ""

    @property
    def num_errors(self) -> int:
        return int(bool(self._error))

    def get_error(self, index: int) -> Checked:
        told = {"desc": lambda _: self._error, "node_operator": lambda _: "PRelu", "node_name": lambda _: "act"}
        return Checked(trt.ParserError, type("Error", (), told)())


class _Parser(_ReportsErrors):
    def __init__(self, network: Checked, logger: trt.ILogger) -> None:
        self._network = network.does

    def parse(self, model: bytes) -> bool:
        if "SREDGE_PARSE_FAILS" in os.environ:
            self._error = "No importer registered for op: PRelu"
            return False
        try:
            _refuse_bytes_that_are_not_cast(onnx.load_model_from_string(model).graph)
            ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 # its own have no base but this
            self._error = str(error).splitlines()[0]
            return False
        self._network.graph = model
        return True


class _Runtime(_OnGpu):
    engine_host_code_allowed = False

    def __new__(cls, logger: trt.ILogger) -> _Runtime:  # noqa: ARG004
        if _DRIVER.standin_fails():
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return super().__new__(cls)

    def __init__(self, logger: trt.ILogger) -> None:
        super().__init__()
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Checked | None:
        if _DRIVER.standin_fails():
            return None
        try:
            parts = json.loads(plan)
        except ValueError:
            self._logger.log(trt.ILogger.Severity.ERROR, "Magic tag does not match")
            return None
        if parts["host_code"] and not self.engine_host_code_allowed:
            self._logger.log(trt.ILogger.Severity.ERROR, "the engine has host code, which is not allowed")
            return None
        return Checked(trt.ICudaEngine, _Engine(parts))


class _Engine(_OnGpu):
    num_io_tensors = 2

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__()
        self._parts = parts
        self.refittable = parts["refit"]
        self.least, _, self.most = parts["profile"]
        self.load(base64.b64decode(parts["graph"]))

    def load(self, graph: bytes) -> None:
        self._parts["graph"] = base64.b64encode(graph).decode()
        self.model = onnx.load_model_from_string(graph)
        self.graph = self.model.graph
        self.dtype = onnx.helper.tensor_dtype_to_np_dtype(self.graph.input[0].type.tensor_type.elem_type)
        # As our own backend opens it.
        self.session = ort.InferenceSession(
            graph, providers=["CPUExecutionProvider"], disabled_optimizers=["WeightBiasQuantization"]
        )

    def _tensor(self, name: str) -> onnx.ValueInfoProto:
        found: onnx.ValueInfoProto = next(value for value in (*self.graph.input, *self.graph.output) if value.name == name)
        return found

    def get_tensor_name(self, index: int) -> str:
        return str((*self.graph.input, *self.graph.output)[index].name)

    def get_tensor_mode(self, name: str) -> trt.TensorIOMode:
        return trt.TensorIOMode.INPUT if name == self.graph.input[0].name else trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> trt.DataType:
        return {"FLOAT": trt.float32, "FLOAT16": trt.float16, "UINT8": trt.uint8}[
            onnx.TensorProto.DataType.Name(self._tensor(name).type.tensor_type.elem_type)
        ]

    def get_tensor_shape(self, name: str) -> trt.Dims:
        return _dims(self._tensor(name))

    def create_serialization_config(self) -> Checked:
        return Checked(trt.ISerializationConfig, _SerializationConfig())

    def serialize_with_config(self, config: Checked) -> bytes:
        """Newer versions write a plan that is not refittable unless they are told to."""
        kept = trt.SerializationFlag.__members__.get("INCLUDE_REFIT")
        return json.dumps({**self._parts, "refit": self.refittable and (kept is None or kept in config.does.flags)}).encode()

    def create_execution_context(self) -> Checked | None:
        if _DRIVER.standin_fails():
            return None
        return Checked(trt.IExecutionContext, _Context(self))

    def create_engine_inspector(self) -> Checked:
        return Checked(trt.EngineInspector, _Inspector(self.graph))


class _Context(_OnGpu):
    def __init__(self, engine: _Engine) -> None:
        super().__init__()
        self._engine = engine
        self.shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._one_at_a_time = Lock()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fits = all(low <= side <= high for low, side, high in zip(self._engine.least, shape, self._engine.most, strict=True))
        self.shape = shape if fits else self.shape
        return fits

    def get_tensor_shape(self, name: str) -> trt.Dims:
        return trt.Dims(self._output().shape if name == self._engine.graph.output[0].name else self.shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle
        assert _DRIVER.standin_has_context()
        if _DRIVER.standin_capturing():
            _captured[_DRIVER.standin_capturing()] = WeakMethod(self._run)
            _DRIVER.standin_set_launch(_launch)
        else:
            self._run()
        return True

    def _run(self) -> None:
        assert self._one_at_a_time.acquire(blocking=False), "two threads share an execution context"
        try:
            self._compute()
        finally:
            self._one_at_a_time.release()

    def _compute(self) -> None:
        source, result = (self._addresses[value.name] for value in (self._engine.graph.input[0], self._engine.graph.output[0]))
        memory = (np.ctypeslib.as_ctypes_type(self._engine.dtype) * int(np.prod(self.shape))).from_address(source)
        output = self._output(np.ctypeslib.as_array(memory).reshape(self.shape))
        ctypes.memmove(result, np.ascontiguousarray(output).ctypes.data, output.nbytes)

    def _output(self, array: Any = None) -> Any:  # noqa: ANN401
        given = np.zeros(self.shape, self._engine.dtype) if array is None else array
        return self._engine.session.run(None, {self._engine.graph.input[0].name: given})[0]


class _SerializationConfig:
    def __init__(self) -> None:
        self.flags: list[trt.SerializationFlag] = []

    def set_flag(self, flag: trt.SerializationFlag) -> bool:
        self.flags.append(flag)
        return True


class _Refitter:
    def __init__(self, engine: Checked, logger: trt.ILogger) -> None:
        assert engine.does.refittable
        assert _DRIVER.standin_has_context()
        self.engine = engine.does
        self.model: onnx.ModelProto = self.engine.model

    def get_all_weights(self) -> list[str]:
        fixed = os.environ.get("SREDGE_FIXED")
        return [tensor.name for tensor in self.engine.graph.initializer if tensor.name != fixed]

    def get_missing_weights(self) -> list[str]:
        return []

    def refit_cuda_engine(self) -> bool:
        self.engine.load(self.model.SerializeToString())
        return True


class _ParserRefitter(_ReportsErrors):
    def __init__(self, refitter: Checked, logger: trt.ILogger) -> None:
        self._refitter = refitter.does

    def refit_from_bytes(self, model: bytes) -> bool:
        """What the engine cannot exchange is passed over without a word."""
        if "SREDGE_REFIT_FAILS" in os.environ:
            self._error = "Failed to refit weights"
            return False
        weights = {tensor.name: tensor for tensor in onnx.load_model_from_string(model).graph.initializer}
        refittable = self._refitter.get_all_weights()
        for tensor in self._refitter.model.graph.initializer:
            if tensor.name in refittable:
                tensor.CopyFrom(weights[tensor.name])
        return True


class _Inspector:
    execution_context: Any = None

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph)).graph

    def get_engine_information(self, format: trt.LayerInformationFormat) -> str:  # noqa: A002 # as TensorRT calls it
        assert format == trt.LayerInformationFormat.JSON
        known = self.execution_context is not None and self.execution_context.does.shape
        layers = [self._layer(node, known=bool(known)) for node in self._graph.node if node.op_type == "Conv"]
        ends = "Bindings" if _MAJOR == 10 else "I/O Tensors"
        return json.dumps({"Layers": layers, ends: []})

    def _layer(self, node: onnx.NodeProto, *, known: bool) -> dict[str, object]:
        name = "FP32" if node.name == os.environ.get("SREDGE_FALLBACK") else self._type(node.input[0])
        both = f"Row major linear {name} format" if known else "N/A due to dynamic shapes"
        tensor = {"Format/Datatype": both} if _MAJOR == 10 else {"Format": both, "Datatype": name if known else "N/A"}
        named = {"Name": "x", "Dimensions": [1], **tensor}
        return {
            "Name": f"{node.name} + fused",
            "LayerType": "CaskConvolution",
            "Inputs": [named],
            "Outputs": [named],
            "Metadata": f"[ONNX Layer: {node.name}]",
        }

    def _type(self, tensor: str) -> str:
        producer = next((node for node in self._graph.node if tensor in node.output), None)
        if producer is not None and producer.op_type == "DequantizeLinear":
            return "Int8"
        known = (*self._graph.value_info, *self._graph.input)
        kind = next((value.type.tensor_type.elem_type for value in known if value.name == tensor), 0)
        return "FP32" if kind == onnx.TensorProto.FLOAT else "FP16" if kind == onnx.TensorProto.FLOAT16 else "?"


def _refuse_bytes_that_are_not_cast(graph: onnx.GraphProto) -> None:
    """As TensorRT's documentation has it for UINT8."""
    inputs = {value.name for value in graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    outputs = {value.name for value in graph.output if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    for node in graph.node:
        if node.op_type != "Cast" and (inputs & set(node.input) or outputs & set(node.output)):
            raise ValueError(f"{node.name}: UINT8 is not supported by {node.op_type}")


def _dims(value: onnx.ValueInfoProto) -> trt.Dims:
    return trt.Dims([dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim])


def _made_by(name: str, does: Callable[..., object]) -> Callable[..., Checked]:
    real = getattr(trt, name)

    def make(*arguments: object, **named: object) -> Checked:
        check_call(real, "__init__", arguments, named)
        return Checked(real, does(*arguments, **named))

    make.__name__ = name
    return make


def install() -> None:
    """Takes the place of the `tensorrt` that is being imported."""
    replaced = ModuleType("tensorrt")
    replaced.__dict__.update({name: value for name, value in vars(trt).items() if not name.startswith("__")})
    replaced.__version__, replaced.__spec__ = trt.__version__, sys.modules["tensorrt"].__spec__  # type: ignore[attr-defined]
    classes: dict[str, Callable[..., object]] = {
        "Builder": _Builder,
        "OnnxParser": _Parser,
        "Runtime": _Runtime,
        "Refitter": _Refitter,
        "OnnxParserRefitter": _ParserRefitter,
    }
    for name, does in classes.items():
        setattr(replaced, name, _made_by(name, does))
    sys.modules["tensorrt"] = replaced
