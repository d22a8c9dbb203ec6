"""Whether a call fits the signature that a pybind11 class writes into its docstring.

set_shape(self: tensorrt_bindings.tensorrt.IOptimizationProfile, input: str, min: tensorrt_bindings.tensorrt.Dims, …) -> None
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((?P<parameters>.*)\)(?: -> .*)?$", re.MULTILINE)
_CLASS = "tensorrt_bindings.tensorrt."


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    optional: bool


class CallError(TypeError):
    """A call that the real class would refuse."""


class Checked:
    """An object of a class of TensorRT that does what `does` does, and refuses what the class has not."""

    def __init__(self, real: type, does: object) -> None:
        object.__setattr__(self, "real", real)
        object.__setattr__(self, "does", does)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 # whatever the class has
        member = _member(self.real, name)
        if isinstance(member, property):
            return getattr(self.does, name)

        def call(*arguments: object, **named: object) -> object:
            check_call(self.real, name, arguments, named)
            return getattr(self.does, name)(*arguments, **named)

        return call

    def __setattr__(self, name: str, value: object) -> None:
        member = _member(self.real, name)
        if not isinstance(member, property) or member.fset is None:
            raise CallError(f"{self.real.__name__}.{name} cannot be set")
        setattr(self.does, name, value)


def check_call(real: type, name: str, arguments: Sequence[object], named: Mapping[str, object]) -> None:
    """CallError where no overload of the method takes that."""
    document = inspect.getdoc(_member(real, name)) or ""
    overloads = [list(_parameters(match["parameters"])) for match in _SIGNATURE.finditer(document)]
    overloads = [parameters for parameters in overloads if [p.name for p in parameters] != ["*args", "**kwargs"]]
    if not any(_fits(parameters[1:], arguments, named) for parameters in overloads):  # the first is self
        raise CallError(f"{real.__name__}.{name} does not take {arguments} {dict(named)}:\n{document}")


def _member(real: type, name: str) -> object:
    try:
        return inspect.getattr_static(real, name)
    except AttributeError:
        raise AttributeError(f"TensorRT's {real.__name__} has no {name}") from None


def _parameters(text: str) -> Iterator[Parameter]:
    depth, start = 0, 0
    for index, letter in enumerate(f"{text},"):
        depth += (letter in "[(<{") - (letter in "])>}")
        if letter == "," and depth == 0:
            name, _, rest = text[start:index].strip().partition(": ")
            kind, equals, _ = rest.partition(" = ")
            yield Parameter(name, kind, bool(equals))
            start = index + 1


def _fits(parameters: Sequence[Parameter], arguments: Sequence[object], named: Mapping[str, object]) -> bool:
    by_name = {parameter.name: value for parameter, value in zip(parameters, arguments, strict=False)}
    if len(arguments) > len(parameters) or by_name.keys() & named.keys() or named.keys() - {p.name for p in parameters}:
        return False
    given = {**by_name, **named}
    return all(_accepts(p.kind, given[p.name]) if p.name in given else p.optional for p in parameters)


def _accepts(kind: str, value: object) -> bool:
    if kind.startswith(_CLASS):
        wanted = kind.removeprefix(_CLASS)
        if wanted == "Dims" and isinstance(value, tuple | list):
            return all(isinstance(side, int) for side in value)
        real = value.real if isinstance(value, Checked) else type(value)
        return wanted in {base.__qualname__ for base in real.__mro__}
    if kind in ("typing.SupportsInt", "int"):
        return hasattr(value, "__int__") and not isinstance(value, str)
    plain = {"str": str, "bool": bool, "tuple": tuple, "list": list, "typing_extensions.Buffer": bytes, "buffer": bytes}
    return isinstance(value, plain[kind])
