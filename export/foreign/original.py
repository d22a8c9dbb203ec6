"""Run somebody's file as it is, in its own precision, on pictures of the contract: a rewrite is compared with the result."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from runtime.backends.onnxruntime import open_for_any_size
from runtime.errors import BackendError

Array = NDArray[np.float32]
Run = Callable[[Array], Array]
"""(N, C, H, W) float32 in and out."""
_RUNTIMES_OWN = (TensorProto.FLOAT, TensorProto.FLOAT16)


def open_original(proto: onnx.ModelProto) -> Run:
    """Open the file in ONNX Runtime; one in a precision that this has no kernels for in ONNX's own reference implementation.

    What is returned raises BackendError where the graph does not run.

    Raises:
        BackendError: neither can open it.
    """
    element = proto.graph.input[0].type.tensor_type.elem_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element))
    try:
        backend = open_for_any_size(proto.SerializeToString())
    except BackendError:
        if element in _RUNTIMES_OWN:
            raise
        return _open_reference(proto, dtype)
    return lambda array: np.asarray(backend.run(array.astype(dtype)), np.float32)


def open_graph(graph: bytes) -> Run:
    """Open a float32 graph in ONNX Runtime; BackendError where it cannot be, or does not run."""
    return open_for_any_size(graph).run


def _open_reference(proto: onnx.ModelProto, dtype: np.dtype[np.generic]) -> Run:
    evaluator = ReferenceEvaluator(proto)
    name = proto.graph.input[0].name

    def run(array: Array) -> Array:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                (output,) = evaluator.run(None, {name: array.astype(dtype)})
        except Exception as error:  # its own exceptions have no base but this
            raise BackendError(f"onnx's reference implementation cannot run {array.shape} through this graph: {error}") from error
        return np.asarray(output, np.float32)

    return run
