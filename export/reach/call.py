"""One operator to follow, as data: its attributes and what its inputs hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.reach.dependence import Dependence, Known


class NotFollowedError(Exception):
    """What an operator depends on is not known here."""


@dataclass(frozen=True)
class Call:
    """A node and its inputs, of which at least one holds pixels; None where one is left out."""

    node: ir.Node
    inputs: Sequence[Dependence | Known | None]
    opset: int

    @property
    def name(self) -> str:
        """What tells this node's results from another's."""
        return str(self.node.outputs[0].name)

    @property
    def source(self) -> Dependence:
        """The first input, which holds pixels."""
        return self.pixels(0)

    def pixels(self, index: int) -> Dependence:
        """Return the input of that index; NotFollowedError where it holds none."""
        value = self.inputs[index]
        if not isinstance(value, Dependence):
            raise NotFollowedError
        return value

    def given(self, index: int) -> Known | None:
        """Return the input of that index where there is one; NotFollowedError where it depends on pixels."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(value, Dependence):
            raise NotFollowedError
        return None if value is None or value.size == 0 else value

    def numbers(self, index: int, attribute: str = "") -> list[int] | None:
        """Integers given as that input, or as an attribute in older opsets; None where there are none."""
        value = self.given(index)
        if value is not None:
            return [int(entry) for entry in np.atleast_1d(value)]
        found = self.node.attributes.get(attribute)
        return None if found is None else list(found.as_ints())

    def number(self, name: str, default: int) -> int:
        found = self.node.attributes.get(name)
        return default if found is None else found.as_int()

    def ints(self, name: str, default: Sequence[int]) -> list[int]:
        found = self.node.attributes.get(name)
        return list(default) if found is None else list(found.as_ints())

    def text(self, name: str, default: str) -> str:
        found = self.node.attributes.get(name)
        return default if found is None else found.as_string()

    def axis(self, default: int) -> int:
        """Return the attribute `axis`, counted from the front."""
        return self.number("axis", default) % self.source.rank
