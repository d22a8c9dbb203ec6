"""Collect ncnn's layers while a graph is walked: what an operator reads is a blob of ncnn or a constant, and so is what it makes.

ncnn runs pictures one by one: a blob has the shape of the ONNX value less its first axis, which is 1, and four axes at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.graph_content import Node
from ...errors import BackendError
from .model import INPUT, NcnnLayer, NcnnModel, Number, Weights

Array = NDArray[Any]
Shape = tuple[int, ...]
_MOST_AXES = 4


@dataclass(frozen=True)
class Blob:
    """A value that ncnn computes, with the shape that it has in the ONNX graph."""

    name: str
    shape: Shape


Value = Blob | Array
Convert = Callable[["Builder", Node, Sequence[Value | None]], Sequence[Value]]


class Builder:
    """The layers so far."""

    def __init__(self, shape: Shape, readers: Mapping[str, int]) -> None:
        self.input = Blob(INPUT, shape)
        self.one_size = False
        """What was written holds for the size of this input alone."""
        self._layers: list[NcnnLayer] = []
        self._readers = readers
        self._blobs = 0

    def add(
        self,
        node: Node,
        kind: str,
        inputs: Sequence[Blob],
        *shapes: Shape,
        parameters: Mapping[int, Number | Sequence[Number]] | None = None,
        weights: Sequence[Weights] = (),
        own: bool = True,
    ) -> list[Blob]:
        """Add a layer that makes blobs of those shapes.

        Args:
            own: it computes what `node` does, and not only something before or after that.

        Raises:
            BackendError: ncnn has no blobs of such a shape.
        """
        for shape in shapes:
            if shape[:1] != (1,) or not 1 < len(shape) <= _MOST_AXES + 1:
                raise self.refuse(node, f"makes a tensor of shape {shape}, where ncnn has (1, …) of 2 to {_MOST_AXES + 1} axes")
            if min(shape) < 1:
                raise self.refuse(node, f"makes a tensor of shape {shape} of a picture {self.input.shape[2]}×{self.input.shape[3]}")
        outputs = [Blob(f"b{self._blobs + at}", shape) for at, shape in enumerate(shapes)]
        self._blobs += len(shapes)
        names = tuple(blob.name for blob in inputs), tuple(blob.name for blob in outputs)
        nodes = ((node.name, node.operator),) if own else ()
        self._layers.append(NcnnLayer(kind, *names, parameters or {}, tuple(weights), nodes))
        return outputs

    def fuse(self, node: Node, before: Blob, kinds: Sequence[str], parameters: Mapping[int, Number | Sequence[Number]]) -> bool:
        """Give `parameters` to the layer that made `before`, so that it computes `node` too; False where that cannot be: the layer
        is none of `kinds`, has an activation already, or something else reads what it makes."""
        last = self._layers[-1] if self._layers else None
        if last is None or last.outputs != (before.name,) or last.kind not in kinds or not last.nodes:
            return False
        if self._readers.get(node.inputs[0], 0) != 1 or set(parameters) & set(last.parameters):
            return False
        nodes = (*last.nodes, (node.name, node.operator))
        self._layers[-1] = replace(last, parameters={**last.parameters, **parameters}, nodes=nodes)
        return True

    def blob(self, node: Node, value: Value, *, rank: int) -> Blob:
        """Return `value` as a blob of `rank` axes: a constant becomes one that ncnn stores."""
        if isinstance(value, Blob):
            return value
        shape = (1,) * (rank - value.ndim) + value.shape
        if shape[0] != 1:
            raise self.refuse(node, f"reads a constant of shape {value.shape}, whose first axis is not 1")
        names = {2: (0,), 3: (1, 0), 4: (2, 1, 0), 5: (2, 11, 1, 0)}.get(len(shape), ())
        parameters = dict(zip(names, shape[1:], strict=False))
        stored = Weights(np.asarray(value, np.float32).reshape(shape))
        return self.add(node, "MemoryData", (), shape, parameters=parameters, weights=(stored,), own=False)[0]

    def computed(self, node: Node, value: Value | None, *, rank: int | None = None) -> Blob:
        """Return an input that the network computes, of `rank` axes where that is given; BackendError where it is another."""
        if not isinstance(value, Blob) or rank not in (None, len(value.shape)):
            raise self.refuse(node, "reads something else than pictures that the network computes")
        return value

    def known(self, node: Node, value: Value | None) -> Array | None:
        """Return an input that is a constant or left out; BackendError where the network computes it."""
        if isinstance(value, Blob):
            raise self.refuse(node, "takes a size that the network computes from a picture's values")
        return value

    def refuse(self, node: Node, why: str) -> BackendError:
        return BackendError(
            f"ncnn cannot run {node.operator} (node {node.name!r}): it {why}", hint="--backend openvino, or --backend onnxruntime"
        )

    def finish(self, output: Blob) -> NcnnModel:
        return NcnnModel(tuple(self._layers), output.name, output.shape, self.one_size)
