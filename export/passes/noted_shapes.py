"""Note on each tensor the shape that it has for one odd input: a graph in, tensors that know their sizes out."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from export.arithmetic import infer_sizes

_NOTED = "shape for an odd input"


_ODD = (3, 61, 97)  # primes: no two dimensions come out equal by chance


def note_shapes(model: ir.Model) -> None:
    """Note on every tensor the shape it has for one odd input: tells tensors of one shape from those that broadcast, and sizes.

    Where sizes burnt into the graph forbid that input, nothing is noted.
    """
    declared = model.graph.inputs[0].shape
    assert declared is not None
    fixed = [size if isinstance(size, int) else odd for size, odd in zip((declared[0], *declared[2:]), _ODD, strict=True)]
    try:
        sized = infer_sizes(ir.to_proto(model), (fixed[0], fixed[1], fixed[2]))
    except onnx.shape_inference.InferenceError:
        return
    shapes = {value.name: value.shape for value in (*sized.inputs, *(output for node in sized for output in node.outputs))}
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        shape = shapes.get(value.name)
        if shape is not None and all(isinstance(size, int) for size in shape):
            value.meta[_NOTED] = shape.numpy()


def noted_shape(value: ir.Value) -> tuple[int, ...] | None:
    """Return what `note_shapes` noted of it."""
    shape: tuple[int, ...] | None = value.meta.get(_NOTED)
    return shape
