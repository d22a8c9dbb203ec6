"""The fields that a bundle's ONNX graph may have, message by message, and why the others are refused.

From https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; values of tensors in their packed form, as onnx writes them.
"""

from __future__ import annotations

from collections.abc import Mapping

VARINT, BYTES, FIXED32 = 0, 2, 5


class Message:
    """Which fields a message may have, by tag (number · 8 + type): once, or any number of times.

    `text` are numbers of fields that hold text, `refused` those of fields that ONNX has and a bundle's graph has not.
    """

    def __init__(
        self,
        name: str,
        *,
        once: Mapping[int, int],
        many: Mapping[int, tuple[int, ...]],
        text: tuple[int, ...] = (),
        refused: Mapping[int, str] | None = None,
    ) -> None:
        self.name = name
        self.tags = {number << 3 | kind for number, kind in once.items()}
        self.tags |= {number << 3 | kind for number, kinds in many.items() for kind in kinds}
        self.once = sum(1 << number for number in once)
        self.text = sum(1 << number for number in text)
        self.refused = refused or {}


MODEL = Message(
    "model",
    once={1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES},
    many={8: (BYTES,), 14: (BYTES,)},
    text=(2, 3, 4, 6),
    refused={20: "training information", 25: "functions of its own", 26: "a device configuration"},
)
GRAPH = Message(
    "graph",
    once={2: BYTES, 10: BYTES},
    many=dict.fromkeys((1, 5, 11, 12, 13, 14, 16), (BYTES,)),
    text=(2, 10),
    refused={15: "a sparse initializer"},
)
NODE = Message(
    "node",
    once={3: BYTES, 4: BYTES, 6: BYTES, 7: BYTES},
    many=dict.fromkeys((1, 2, 5, 9), (BYTES,)),
    text=(1, 2, 3, 4, 6, 7),
    refused={8: "an overload, which only functions have", 10: "a device configuration"},
)
ATTRIBUTE = Message(
    "attribute",
    once={1: BYTES, 2: FIXED32, 3: VARINT, 4: BYTES, 5: BYTES, 13: BYTES, 20: VARINT},
    many={7: (FIXED32, BYTES), 8: (VARINT, BYTES), 9: (BYTES,)},
    text=(1, 13),
    refused={6: "a graph inside an operator", 11: "graphs inside an operator", 10: "a list of tensors", 14: "a type", 15: "types"}
    | {21: "a reference to a function's attribute", 22: "a sparse tensor", 23: "sparse tensors"},
)
TENSOR = Message(
    "tensor",
    once={2: VARINT, 4: BYTES, 5: BYTES, 7: BYTES, 8: BYTES, 9: BYTES, 10: BYTES, 11: BYTES, 12: BYTES, 14: VARINT},
    many={1: (VARINT, BYTES), 16: (BYTES,)},
    text=(8, 12),
    refused={3: "segments", 6: "text", 13: "external data"},
)
OPSET = Message("operator set", once={1: BYTES, 2: VARINT}, many={})
VALUE = Message("value", once={1: BYTES, 2: BYTES, 3: BYTES}, many={4: (BYTES,)}, text=(1, 3))
TYPE = Message(
    "type", once={1: BYTES, 6: BYTES}, many={}, refused={4: "a sequence", 5: "a map", 8: "a sparse tensor", 9: "an optional"}
)
TENSOR_TYPE = Message("tensor's type", once={1: VARINT, 2: BYTES}, many={})
SHAPE = Message("shape", once={}, many={1: (BYTES,)})
SIDE = Message("side", once={1: VARINT, 2: BYTES, 3: BYTES}, many={}, text=(2, 3))

# TensorProto.DataType: bits of an element, and the field that holds values where raw_data does not.
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16}
BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8}
VALUES = {1: 4, 7: 7, 11: 10, 12: 11, 13: 11}
INT32_DATA, RAW_DATA = 5, 9
