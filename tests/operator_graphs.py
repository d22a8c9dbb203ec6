"""One operator each, with its attributes and optional inputs in and out: what a network that was imported may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

SHAPE = (1, 4, 6, 8)
"""Of what goes in: values in ±2, none of them 0."""
Constant = NDArray[np.generic] | None


@dataclass(frozen=True)
class Case:
    """An operator that reads the picture, then `constants`, None for an input that is left out.

    Attributes:
        before: operators before it, each of which reads what the one before makes.
        outputs: how many it makes; the last is the graph's.
        smooth: whether a small change of what goes in changes the output by its derivative; the output is a float then.
        picture_at: which of its inputs the picture is.
    """

    operator: str
    constants: Sequence[Constant] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    before: Sequence[str] = ()
    outputs: int = 1
    opset: int = 18
    smooth: bool = True
    picture_at: int = 0

    def model(self) -> onnx.ModelProto:
        nodes, weights, name = [], [], "input"
        for index, operator in enumerate(self.before):
            nodes.append(onnx.helper.make_node(operator, [name], [f"before{index}"], name=f"before{index}"))
            name = f"before{index}"
        inputs = []
        for index, array in enumerate(self.constants):
            inputs.append("" if array is None else f"constant{index}")
            if array is not None:
                weights.append(onnx.numpy_helper.from_array(np.asarray(array), f"constant{index}"))
        inputs.insert(self.picture_at, name)
        outputs = [f"output{index}" for index in range(self.outputs)]
        nodes.append(onnx.helper.make_node(self.operator, inputs, outputs, name="node", **self.attributes))
        last = outputs[-1]
        if not self.smooth:
            nodes.append(onnx.helper.make_node("Cast", [last], ["cast"], name="cast", to=onnx.TensorProto.FLOAT))
            last = "cast"
        picture = onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, SHAPE)
        made = onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None)
        graph = onnx.helper.make_graph(nodes, "one", [picture], [made], weights)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self.opset)], ir_version=10)


def _random(*shape: int, low: float = -1, high: float = 1) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).uniform(low, high, shape).astype(np.float32)


def _number(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def _indices(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


_ACTIVATIONS = (
    "Abs",
    "Celu",
    "Cos",
    "Elu",
    "Erf",
    "Exp",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Reciprocal",
)
_MORE = ("Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Tanh", "Dropout")
_STEPWISE = ("Ceil", "Floor", "Round", "Sign", "ThresholdedRelu")
_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_REDUCTIONS = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_COORDINATES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")
_SIZES = _indices(1, 4, 13, 7)


def _elementwise() -> dict[str, Case]:
    cases = {name: Case(name) for name in (*_ACTIVATIONS, *_MORE)}
    cases |= {name: Case(name, smooth=False) for name in _STEPWISE}
    cases |= {name: Case(name, [_number(0.3)], smooth=False) for name in _COMPARISONS}
    cases |= {name: Case(name, [_random(4, 1, 1, low=1)]) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")}
    cases |= {f"{name} on the right": Case(name, [_random(4, 1, 1)], picture_at=1) for name in ("Sub", "Div")}
    cases |= {f"{name} of a positive value": Case(name, before=["Exp"]) for name in ("Log", "Sqrt")}
    return cases | {
        "three summed": Case("Sum", [_random(4, 6, 8), _random(8)]),
        "Pow": Case("Pow", [_number(2.5)], before=["Exp"]),
        "Pow of a whole number": Case("Pow", [_number(3)]),
        "Clip": Case("Clip"),
        "Clip from below": Case("Clip", [_number(-0.5)]),
        "Clip from above": Case("Clip", [None, _number(0.5)]),
        "Clip on both sides": Case("Clip", [_number(-0.5), _number(0.5)]),
        "Clip by attributes": Case("Clip", attributes={"min": -0.5, "max": 0.5}, opset=10),
        "LeakyRelu by much": Case("LeakyRelu", attributes={"alpha": 0.3}),
        "Elu by much": Case("Elu", attributes={"alpha": 2.0}),
        "HardSigmoid of another slope": Case("HardSigmoid", attributes={"alpha": 1 / 6, "beta": 0.4}),
        "PRelu": Case("PRelu", [_random(4, 1, 1)]),
        "PRelu of one slope": Case("PRelu", [_random(1)]),
        "Gelu": Case("Gelu", opset=20),
        "Gelu by tanh": Case("Gelu", attributes={"approximate": "tanh"}, opset=20),
        "Mod": Case("Mod", [_number(0.7)], {"fmod": 1}, smooth=False),
        "Cast": Case("Cast", attributes={"to": onnx.TensorProto.INT64}, smooth=False),
        "Where": Case("Where", [_random(4, 6, 8) > 0, _number(0.5)], picture_at=1),
    }


def _layout() -> dict[str, Case]:
    return {
        "Concat": Case("Concat", [_random(1, 2, 6, 8)], {"axis": 1}),
        "Concat from the end": Case("Concat", [_random(1, 4, 6, 2)], {"axis": -1}),
        "Split by sizes": Case("Split", [_indices(1, 3)], {"axis": 1}, outputs=2),
        "Split evenly": Case("Split", attributes={"axis": 1, "num_outputs": 2}, outputs=2),
        "Split, the last one smaller": Case("Split", attributes={"axis": 3, "num_outputs": 2}, outputs=2),
        "Slice": Case("Slice", [_indices(1, 0), _indices(-1, 3), _indices(2, -1)]),
        "Slice with steps": Case("Slice", [_indices(0, -1), _indices(9, -9), _indices(2, 3), _indices(2, -1)]),
        "Gather": Case("Gather", [_indices(2, -1, 0)], {"axis": 1}),
        "Gather of one": Case("Gather", [np.array(1)], {"axis": 2}),
        "Transpose": Case("Transpose", attributes={"perm": [0, 2, 3, 1]}),
        "Transpose of all": Case("Transpose"),
        "Reshape": Case("Reshape", [_indices(0, 2, -1, 8)]),
        "Flatten": Case("Flatten"),
        "Flatten from the end": Case("Flatten", attributes={"axis": -1}),
        "Squeeze": Case("Squeeze", [_indices(0)]),
        "Squeeze of all": Case("Squeeze"),
        "Unsqueeze": Case("Unsqueeze", [_indices(0, -1)]),
        "Expand": Case("Expand", [_indices(3, 1, 1, 6, 8)]),
        "Tile": Case("Tile", [_indices(1, 2, 1, 3)]),
        "Pad": Case("Pad", [_indices(0, 0, 1, 2, 0, 1, 0, 3)]),
        "Pad with a number": Case("Pad", [_indices(0, 0, 1, 2, 0, 1, 0, 3), _number(0.7)]),
        "Pad on some axes": Case("Pad", [_indices(1, 2, 0, 3), None, _indices(2, -1)], {"mode": "edge"}),
        "Pad by reflection": Case("Pad", [_indices(0, 0, 2, 3, 0, 0, 4, 1)], {"mode": "reflect"}),
        "Pad by less than nothing": Case("Pad", [_indices(0, 0, -1, 1, 0, 0, -2, -1)]),
        "Pad, reflection and a crop": Case("Pad", [_indices(0, 0, -1, 2, 0, 0, 3, 0)], {"mode": "reflect"}),
        "DepthToSpace": Case("DepthToSpace", attributes={"blocksize": 2}),
        "DepthToSpace, CRD": Case("DepthToSpace", attributes={"blocksize": 2, "mode": "CRD"}),
        "SpaceToDepth": Case("SpaceToDepth", attributes={"blocksize": 2}),
        "Shape": Case("Shape", attributes={"start": 1, "end": -1}, smooth=False),
        "Size": Case("Size", smooth=False),
        "ConstantOfShape": Case("ConstantOfShape", before=["Shape"], smooth=False),
    }


def _windows() -> dict[str, Case]:
    convolution = [_random(6, 4, 3, 3), _random(6)]
    transposed = [_random(4, 3, 4, 4), _random(3)]
    pads = {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "strides": [2, 1]}
    return {
        "Conv": Case("Conv", convolution, {"pads": [1, 1, 1, 1]}),
        "Conv without bias": Case("Conv", convolution[:1], {"pads": [0, 2, 1, 0], "strides": [2, 1], "dilations": [1, 2]}),
        "Conv in groups": Case("Conv", [_random(6, 2, 3, 3)], {"group": 2}),
        "Conv, same upper": Case("Conv", [_random(6, 4, 4, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        "Conv, same lower": Case("Conv", [_random(6, 4, 4, 3)], {"auto_pad": "SAME_LOWER"}),
        "ConvTranspose": Case("ConvTranspose", transposed, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        "ConvTranspose, asymmetric": Case(
            "ConvTranspose", transposed, {"strides": [3, 2], "pads": [0, 1, 2, 0], "output_padding": [1, 0], "dilations": [1, 2]}
        ),
        "ConvTranspose in groups": Case("ConvTranspose", [_random(4, 3, 2, 2)], {"strides": [2, 2], "group": 2}),
        "Gemm": Case("Gemm", [_random(192, 7), _random(7)], {"alpha": 0.5, "beta": 2.0}, before=["Flatten"]),
        "Gemm, transposed": Case("Gemm", [_random(7, 192)], {"transB": 1}, before=["Flatten"]),
        "MatMul": Case("MatMul", [_random(8, 3)]),
        "MatMul on the right": Case("MatMul", [_random(2, 6)], picture_at=1),
        "Einsum": Case("Einsum", [_random(4, 3)], {"equation": "nchw,cd->ndhw"}),
        "MaxPool": Case("MaxPool", attributes=pads),
        "MaxPool, dilated": Case("MaxPool", attributes={"kernel_shape": [2, 2], "dilations": [2, 1]}),
        "MaxPool, ceil": Case("MaxPool", attributes={"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        "MaxPool, same": Case("MaxPool", attributes={"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        "AveragePool": Case("AveragePool", attributes=pads),
        "AveragePool, pads counted": Case("AveragePool", attributes={**pads, "count_include_pad": 1}),
        "GlobalAveragePool": Case("GlobalAveragePool"),
        "GlobalMaxPool": Case("GlobalMaxPool"),
        **{f"Reduce{name}": Case(f"Reduce{name}", [_indices(2, -1)]) for name in _REDUCTIONS},
        **{
            f"Reduce{name} by attribute": Case(f"Reduce{name}", (), {"axes": [1], "keepdims": 0}, opset=17)
            for name in ("Max", "Mean")
        },
        "ReduceSum of all": Case("ReduceSum", attributes={"keepdims": 0}),
        "ReduceMean of none": Case("ReduceMean", attributes={"noop_with_empty_axes": 1}),
    }


def _normalizations() -> dict[str, Case]:
    each = _random(4, low=0.5), _random(4)
    return {
        "BatchNormalization": Case("BatchNormalization", [*each, _random(4), _random(4, low=0.5)], {"epsilon": 1e-3}),
        "InstanceNormalization": Case("InstanceNormalization", each, {"epsilon": 1e-3}),
        "LayerNormalization": Case("LayerNormalization", [_random(8), _random(8)], {"epsilon": 1e-3}),
        "LayerNormalization of two axes": Case("LayerNormalization", [_random(6, 8)], {"axis": 2}),
        "GroupNormalization": Case("GroupNormalization", each, {"num_groups": 2}, opset=21),
        "LpNormalization": Case("LpNormalization", attributes={"axis": 1, "p": 2}),
        "Softmax": Case("Softmax"),
        "Softmax of channels": Case("Softmax", attributes={"axis": 1}),
        "LogSoftmax": Case("LogSoftmax"),
    }


def _resizes() -> dict[str, Case]:
    cases = {}
    for mode in ("nearest", "linear", "cubic"):
        for coordinates in _COORDINATES:
            attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
            cases[f"Resize, {mode}, {coordinates}"] = Case("Resize", [None, None, _SIZES], attributes, opset=19)
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        attributes = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": "asymmetric"}
        cases[f"Resize, {rounding}"] = Case("Resize", [None, np.array([1, 1, 1.7, 0.6], np.float32)], attributes)
    less = np.array([1, 1, 0.5, 0.5], np.float32)
    return cases | {
        "Resize, antialiased": Case("Resize", [None, less], {"mode": "cubic", "antialias": 1}),
        "Resize, another cubic": Case(
            "Resize", [None, None, _SIZES], {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
        ),
        "Resize of some axes": Case("Resize", [None, None, _indices(9, 4)], {"mode": "linear", "axes": [2, 3]}),
    }


OPERATOR_CASES: Mapping[str, Case] = {**_elementwise(), **_layout(), **_windows(), **_normalizations(), **_resizes()}
