"""What the documents show is true: commands parse and run, Python compiles and runs, and messages are the code's own.

A block is run here unless the line before it says why not: `<!-- not run here: needs a GPU -->`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import runtime
from runtime.bundle import Bundle
from runtime.images import Picture, write_picture
from runtime.targets import TARGETS
from tests.commands import PLACEHOLDER, ROOT, Command, find_command, modules, strings
from tests.document_blocks import DOCS, DOCUMENTS, SHELLS, Block, all_blocks, blocks, words_of

TYPED = [(block, line) for block in all_blocks(*SHELLS) for line in block.lines]
PYTHON = all_blocks("python")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
_OTHERS_MODULES = {"pytest", "venv", "pip", "zipfile"}
_QUOTED = re.compile(r"^\| (`+) ?(.+?) ?\1 \|", re.MULTILINE)


def _parser(command: Command) -> Any:  # noqa: ANN401 # typer's own copy of click has no public types
    return typer.main.get_command(importlib.import_module(command.module).app)


def _parse(command: Command, words: list[str]) -> None:
    """Let the command's own parser read the words; it raises where it does not take them."""
    parser = _parser(command)
    parser = getattr(parser, "commands", {}).get(command.name.split()[-1], parser)
    with parser.make_context(command.name, list(words)):
        pass


def _check_python(words: list[str]) -> None:
    found = find_command(" ".join(["python", *words[1:]]))
    if found is not None:
        _parse(found[0], words[len(found[0].name.split()) :])
    elif words[1] == "-m":
        assert words[2] in _OTHERS_MODULES or importlib.util.find_spec(words[2]), f"there is no module {words[2]}"
    assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))


@pytest.mark.parametrize(("block", "line"), TYPED, ids=[f"{block}: {line[:60]}" for block, line in TYPED])
def test_a_command_in_a_document_is_one_that_its_own_parser_takes(block: Block, line: str) -> None:
    for words in words_of(line):
        if words[0] in ("python", "python3"):
            _check_python(words)
        elif words[0] == "sredge":
            found = find_command(" ".join(words))
            assert found is not None
            _parse(found[0], words[2:])
        elif words[0] == "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words[1:] if "=" not in word)
        elif words[0] == "pip":
            ours = [extra for word in words for extra in re.findall(r"^sredge\[([\w,]+)\]$", word)]
            assert set(",".join(ours).split(",")) - {""} <= EXTRAS.keys()
        else:
            assert block.mark, f"{words[0]} is no command that is checked here: mark the block as not run, with the reason"


@pytest.fixture
def folder(quantized: Bundle, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has what documents name: pictures, and a bundle as BUNDLE and as build/lesrcnn_x2."""
    for name in ("in.png", "IN.png", "IN.jpg", "more.tiff", "PHOTOS/one.png", "PHOTOS/inner/two.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_picture(tmp_path / name, picture)
    for name in ("BUNDLE", "build/lesrcnn_x2", "lesrcnn_x2"):
        shutil.copytree(quantized.directory, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _type(line: str) -> None:
    """Run a line as typed: our own commands in this process, which has imported them already, others in a shell."""
    commands = list(words_of(line))
    found = find_command(" ".join(["python", *commands[0][1:]])) if commands[0][0].startswith("python") else None
    if found is None or len(commands) > 1 or set("<>|&$") & set(line):
        paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        subprocess.run(["bash", "-ec", line], check=True, env=os.environ | paths)
        return
    command = found[0]
    ours = len(command.name.split()) - hasattr(_parser(command), "commands")  # a group takes the name of what is in it
    code: object = 0
    try:
        importlib.import_module(command.module).main(commands[0][ours:])
    except SystemExit as ended:
        code = ended.code
    assert not code, f"{line}: exit code {code}"


RUN = [document for document in DOCUMENTS if any(not block.mark for block in blocks(document, *SHELLS))]


@pytest.mark.parametrize("document", RUN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_commands_of_a_document_run_one_after_the_other(document: Path, folder: Path) -> None:
    if document.name == "quick-start.md":
        shutil.rmtree(folder / "build")  # its own first command makes it
    for block in blocks(document, *SHELLS):
        for line in block.run_lines:
            _type(line)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_in_a_document_compiles_and_imports_what_there_is(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            assert all(_ours(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(_ours(str(node.module)))
            assert all(hasattr(module, alias.name) for alias in node.names)


def _ours(name: str) -> str:
    """Give the module to import: on a device runtime is called sredge."""
    return name.replace("sredge", "runtime", 1) if name.split(".")[0] == "sredge" else name


@pytest.mark.parametrize("block", [block for block in PYTHON if not block.mark], ids=str)
def test_python_in_a_document_runs(block: Block, folder: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sredge", runtime)
    names: dict[str, Any] = {"picture": picture, "frames": [picture, picture], "__name__": "document"}
    exec(compile(block.text, str(block), "exec"), names)
    if "larger" in names:
        assert names["larger"].shape == (2 * picture.shape[0], 2 * picture.shape[1], 3)
        assert names["larger"].dtype == np.uint8


def test_a_block_that_is_not_run_says_why_and_names_tests_that_exist() -> None:
    for block in all_blocks(*SHELLS, "python"):
        assert not block.mark or len(block.mark.split()) >= 2, str(block)
        assert all((ROOT / name).is_file() for name in re.findall(r"tests/\w+\.py", block.mark)), str(block)


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_toml_in_a_document_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


MESSAGES = [
    message
    for message in (found[1] for found in _QUOTED.findall((DOCS / "troubleshooting.md").read_text(encoding="utf-8")))
    if not message.startswith("ModuleNotFoundError")  # Python's own
]


@pytest.fixture(scope="module")
def code_texts() -> list[str]:
    """Every text of the code in which something is filled in, or that is a sentence."""
    return [text for _, path in modules() for _, text in strings(path) if len(text.replace(PLACEHOLDER, "")) > 8]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_troubleshooting_explains_is_one_that_the_code_writes(message: str, code_texts: list[str]) -> None:
    shown = re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL)
    written = (re.compile(".*".join(map(re.escape, text.split(PLACEHOLDER))), re.DOTALL) for text in code_texts)
    assert any(shown.search(text) or pattern.fullmatch(message) for text, pattern in zip(code_texts, written, strict=True))


def test_troubleshooting_has_the_likeliest_messages() -> None:
    assert len(MESSAGES) > 20


def test_the_readme_links_to_what_there_is() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_every_target_is_described() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert "<!-- generated: other_targets -->" in shown or all(f"target {target.name} -->" in shown for target in TARGETS)
