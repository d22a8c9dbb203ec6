"""Run the bytes of a .tflite file in LiteRT itself, and say what is in them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray


def run_tflite(file: bytes, array: NDArray[Any]) -> NDArray[Any]:
    """(N, C, H, W) float32 in and out, or (N, H, W, C) uint8 in and out."""
    floats = array.dtype == np.float32
    given = np.ascontiguousarray(array.transpose(0, 2, 3, 1) if floats else array)
    interpreter = Interpreter(model_content=file, num_threads=1)
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    if tuple(entry["shape"]) != given.shape:
        interpreter.resize_tensor_input(entry["index"], given.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], given)
    interpreter.invoke()
    made: NDArray[Any] = interpreter.get_tensor(end["index"])
    return made.transpose(0, 3, 1, 2) if floats else made


def read_tflite(file: bytes) -> Any:  # noqa: ANN401 # the generated schema has no types
    return schema.ModelT.InitFromPackedBuf(file, 0)


def operators_of(file: bytes) -> Counter[str]:
    """How many there are of each operator, by its name in the schema."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = read_tflite(file)
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    return Counter(codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators)
