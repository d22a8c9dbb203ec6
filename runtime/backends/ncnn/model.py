"""Hold a network as ncnn describes it: layers in, the text of a .param file and the bytes of a .bin file out.

Formats: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure. A blob of ncnn has one reader; where several layers
read one, a layer `Split` gives each its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = 7767517
INPUT, OUTPUT = "in0", "out0"
Number = int | float
_FLOAT32_TAG, _FLOAT16_TAG = 0, 0x01306B47
_WORD = 4  # bytes that each array of a .bin file is filled up to


@dataclass(frozen=True)
class Weights:
    """One array of the .bin file.

    Attributes:
        tagged: a number before it says its type, float32 or float16; else it is float32.
    """

    array: NDArray[Any]
    tagged: bool = False

    def pieces(self) -> Iterator[memoryview]:
        half = self.tagged and self.array.dtype == np.float16
        if self.tagged:
            yield memoryview((_FLOAT16_TAG if half else _FLOAT32_TAG).to_bytes(4, "little"))
        flat = np.ascontiguousarray(self.array, "<f2" if half else "<f4").reshape(-1)
        yield flat.view(np.uint8).data
        if flat.nbytes % _WORD:
            yield memoryview(bytes(_WORD - flat.nbytes % _WORD))


@dataclass(frozen=True)
class NcnnLayer:
    """One layer: `nodes` are the names and operators of the ONNX nodes that it computes, none of a layer that ncnn alone needs."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[int, Number | Sequence[Number]]
    weights: tuple[Weights, ...]
    nodes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NcnnModel:
    """A network.

    Attributes:
        layers: in an order in which each reads what others before it wrote.
        output: the blob that the network gives.
        output_shape: of that for the size it was converted for, as the ONNX graph has it.
        one_size: it holds for one size of input alone.
    """

    layers: tuple[NcnnLayer, ...]
    output: str
    output_shape: tuple[int, ...]
    one_size: bool

    def blobs(self) -> tuple[str, ...]:
        """Return the name of the input and of what each layer writes."""
        return tuple(dict.fromkeys((INPUT, *(name for layer in self.layers for name in layer.outputs))))

    def param(self) -> str:
        """Return the text of the .param file; the layer of index i is called `i`."""
        readers = Counter(name for layer in self.layers for name in layer.inputs) + Counter([self.output])
        lines = [f"Input {INPUT} 0 1 {INPUT}"]
        lines += self._split(INPUT, readers)
        left: dict[str, int] = {}

        def read(name: str) -> str:
            if readers[name] < 2:
                return name
            left[name] = left.get(name, -1) + 1
            return f"{name}_{left[name]}"

        for index, layer in enumerate(self.layers):
            inputs = [read(name) for name in layer.inputs]
            parameters = [_parameter(key, value) for key, value in layer.parameters.items()]
            counts = [len(inputs), len(layer.outputs)]
            lines.append(" ".join(map(str, (layer.kind, index, *counts, *inputs, *layer.outputs, *parameters))))
            for name in layer.outputs:
                lines += self._split(name, readers)
        lines.append(f"Noop {OUTPUT} 1 1 {read(self.output)} {OUTPUT}")
        blobs = sum(int(line.split()[3]) for line in lines)
        return "\n".join([str(MAGIC), f"{len(lines)} {blobs}", *lines, ""])

    def weights(self) -> Iterator[memoryview]:
        """Yield the bytes of the .bin file, piece by piece."""
        for layer in self.layers:
            for weights in layer.weights:
                yield from weights.pieces()

    def _split(self, name: str, readers: Counter[str]) -> list[str]:
        count = readers[name]
        return [f"Split split_{name} 1 {count} {name} " + " ".join(f"{name}_{at}" for at in range(count))] if count > 1 else []


def _parameter(key: int, value: Number | Sequence[Number]) -> str:
    if isinstance(value, int | float):
        return f"{key}={_number(value)}"
    return f"{-23300 - key}={len(value)}," + ",".join(map(_number, value))


def _number(value: Number) -> str:
    """Return a number as ncnn reads it: what has a point or an exponent is a float."""
    return str(int(value)) if isinstance(value, int) else f"{value:.9e}"
