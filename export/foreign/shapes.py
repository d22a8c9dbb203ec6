"""Infer the shapes of a graph's tensors at several sizes of the picture: what changes with the size is then known."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

Dims = tuple[int | None, ...]


@dataclass(frozen=True)
class Shapes:
    """The shapes of every tensor by name at several sizes of the picture, the file's own first."""

    by_name: list[dict[str, Dims]]

    def at_own(self, value: ir.Value | None) -> Dims:
        return () if value is None else self.by_name[0].get(str(value.name), ())

    def known(self, value: ir.Value) -> bool:
        """Return whether every extent is known at every size, and as many."""
        found = [shapes.get(str(value.name)) for shapes in self.by_name]
        return all(dims is not None and None not in dims for dims in found) and len({len(dims or ()) for dims in found}) == 1

    def varying(self, value: ir.Value | None) -> set[int]:
        """Axes whose extent follows from the picture's size."""
        if value is None or str(value.name) not in self.by_name[0]:
            return set()
        all_dims = [shapes[str(value.name)] for shapes in self.by_name]
        return {axis for axis in range(len(all_dims[0])) if len({dims[axis] for dims in all_dims}) > 1}


def describe(node: ir.Node) -> str:
    """Return what an operator is called in what is said of it."""
    return f"{node.op_type} {node.name or node.outputs[0].name}"


def kernel_of(node: ir.Node) -> tuple[int, ...]:
    """Return the extents of the window of a convolution or a pool."""
    if "kernel_shape" in node.attributes:
        return ints_of(node, "kernel_shape")
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    return tuple(weight.shape.numpy()[2:])


def ints_of(node: ir.Node, name: str) -> tuple[int, ...]:
    """Return an attribute of integers; none where it is not there."""
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else ()
