"""Small graphs to try rewrites and imports on, with weights from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

CHANNELS = 4
Array = NDArray[np.float32]


class Graph:
    """A graph under construction, with weights from a seed: each method adds a node and gives its output's name."""

    def __init__(self, seed: int, *, channels: int = CHANNELS, sides: Sequence[int | str] = ("h", "w")) -> None:
        self.rng = np.random.default_rng(seed)
        self.sides = sides
        self.channels = {"input": channels}
        self.nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, NDArray[np.generic]] = {}

    def add(self, operator: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:  # noqa: ANN401 # as onnx has it
        stem = "node" if operator == "Constant" else operator.lower()  # a name that no initializer has
        output = f"{stem}{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        self.channels[output] = self.channels.get(inputs[0], 0) if channels is None and inputs else channels or 0
        return output

    def add_many(self, operator: str, *inputs: str, channels: Sequence[int], **attributes: Any) -> list[str]:  # noqa: ANN401 # as onnx has it
        """A node of several outputs, each with so many channels."""
        name = f"{operator.lower()}{len(self.nodes)}"
        outputs = [f"{name}.{index}" for index in range(len(channels))]
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), outputs, name=name, **attributes))
        self.channels.update(zip(outputs, channels, strict=True))
        return outputs

    def constant(self, array: NDArray[np.generic] | Sequence[int] | float) -> str:
        name = f"constant{len(self._weights)}"
        values = np.asarray(array)
        self._weights[name] = values.astype(np.float32) if values.dtype == np.float64 else values
        return name

    def random(self, *shape: int) -> Array:
        return self.rng.uniform(-1, 1, shape).astype(np.float32)

    def conv(self, source: str, outputs: int, kernel: int, *, bias: bool = True, pad: int | None = None, weight: str = "") -> str:
        weight = weight or self.constant(self.random(outputs, self.channels[source], kernel, kernel))
        given = (self.constant(self.random(outputs)),) if bias else ()
        pads = [kernel // 2 if pad is None else pad] * 4
        return self.add("Conv", source, weight, *given, channels=outputs, pads=pads, auto_pad="NOTSET")

    def split(self, source: str, parts: Sequence[int]) -> list[str]:
        """So many channels each."""
        sizes = self.constant(np.array(parts))
        outputs = [f"split{len(self.nodes)}_{at}" for at in range(len(parts))]
        self.nodes.append(onnx.helper.make_node("Split", [source, sizes], outputs, name=outputs[0], axis=1))
        self.channels.update(zip(outputs, parts, strict=True))
        return outputs

    def shuffle(self, source: str, factor: int = 2, mode: str = "CRD") -> str:
        channels = self.channels[source] // factor**2
        return self.add("DepthToSpace", source, channels=channels, blocksize=factor, mode=mode)

    def initializers(self) -> list[onnx.TensorProto]:
        return [onnx.numpy_helper.from_array(array, name) for name, array in self._weights.items()]

    def model(self, output: str) -> ir.Model:
        return ir.from_proto(self.proto(output))

    def proto(self, output: str, *, opset: int = 18) -> onnx.ModelProto:
        picture = onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["n", self.channels["input"], *self.sides])
        result = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
        graph = onnx.helper.make_graph(self.nodes, "random", [picture], [result], self.initializers())
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)
