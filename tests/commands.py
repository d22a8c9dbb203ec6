"""Every command line of the project, found where it is defined, and the commands that texts tell their reader to type."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("runtime", "calibration", "quantize", "export", "benchmarks")
_NAME = re.compile(r'name="(python -m [^"]+)"')
_WORDS = "engine|train|list|explain|throughput|int8-loss|export|quantize|benchmarks|upscale|info|pack"
_START = rf"python -m [a-zX]|\bsredge (?:{_WORDS})\b"
_TYPED = re.compile(rf"(?:{_START})(?:(?!{_START}|&&)[^\n`;\")→|])*")
_END = re.compile(
    r"[,:]? (?:or|and|which|makes|needs|finds|with|as|is|has|gives|measures|on|that|says|shows|tells)\b|\. |, |\s{2,}#| #"
)
_SREDGE = {
    "engine": "python -m export.engine",
    "train": "python -m export.train",
    "list": "python -m export list",
    "explain": "python -m quantize explain",
    "throughput": "python -m benchmarks.throughput",
    "int8-loss": "python -m benchmarks.int8_loss",
}
PLACEHOLDER = "X"


@dataclass(frozen=True)
class Option:
    """An option as `--help` shows it."""

    names: tuple[str, ...]
    help: str
    kind: str
    """A flag, a value, or several."""
    required: bool


@dataclass(frozen=True)
class Command:
    """What is typed, the module it is in, its options, and how many words stand behind them at least."""

    name: str
    module: str
    options: tuple[Option, ...]
    arguments: int

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for option in self.options for name in option.names) | {"--help", "--verbose", "--version"}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the packages by name."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


@cache
def commands() -> dict[str, Command]:
    """By what is typed: `python -m export`, `python -m runtime upscale`."""
    found = {}
    for module, path in modules():
        text = path.read_text(encoding="utf-8")
        if "console.application(" not in text:
            continue
        name = next(iter(_NAME.findall(text)), f"python -m {module.removesuffix('.cli')}")
        command: Any = typer.main.get_command(importlib.import_module(module).app)
        inner = getattr(command, "commands", None)
        for typed, one in [(name, command)] if inner is None else [(f"{name} {word}", one) for word, one in inner.items()]:
            found[typed] = Command(typed, module, tuple(_options(one)), sum(_is_wanted_argument(given) for given in one.params))
    return found


def _is_wanted_argument(given: Any) -> bool:  # noqa: ANN401 # typer's own copy of click has no public types
    return given.param_type_name == "argument" and bool(given.required)


def _options(command: Any) -> Iterator[Option]:  # noqa: ANN401
    for given in command.params:
        if given.param_type_name == "option" and given.name != "help":
            kind = "flag" if given.is_flag else "several" if given.multiple else "value"
            yield Option((*given.opts, *given.secondary_opts), given.help or "", kind, bool(given.required))


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Every text in a module but docstrings, with its line; what is filled in is PLACEHOLDER."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node}
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | docstrings:
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values]
            yield node.lineno, "".join(parts)


def typed_commands(text: str) -> Iterator[str]:
    """`python -m …` and `sredge …` in a text, up to where the command ends."""
    for match in _TYPED.finditer(text.replace("\\\n", " ")):
        yield _END.split(match.group())[0].strip(" .,:'")


def find_command(typed: str) -> tuple[Command, list[str]] | None:
    """The command and the words behind it; None of a module of somebody else's."""
    words = typed.split()
    if words[0] == "sredge":
        known = _SREDGE.get(words[1], f"python -m {words[1]}")
        words = [*(known if known in commands() else f"python -m runtime {words[1]}").split(), *words[2:]]
    for length in (4, 3):
        name = " ".join(words[:length])
        if name in commands():
            return commands()[name], words[length:]
    return None


def importers(module: str) -> set[str]:
    """The modules that import `module`, directly or not, and itself."""
    direct = _imports()
    found, waiting = {module}, [module]
    while waiting:
        imported = waiting.pop()
        for name, its in direct.items():
            if imported in its and name not in found:
                found.add(name)
                waiting.append(name)
    return found


def imported_module(node: ast.ImportFrom, path: Path) -> str:
    """Return the absolute name of the module that an import in `path` reads from."""
    own = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([*own[: -node.level], *([node.module] if node.module else [])]) if node.level else str(node.module)


@cache
def _imports() -> dict[str, set[str]]:
    found = {}
    for module, path in modules():
        its = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                its |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                source = imported_module(node, path)
                its |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
        found[module] = its
    return found
