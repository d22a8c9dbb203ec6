"""Reads the documents: their fenced blocks, which of them say that they are not run here, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.commands import ROOT

DOCS = ROOT / "deploy_docs"
DOCUMENTS = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
SHELLS = ("", "sh", "bash", "shell", "console")
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}) *(?P<language>[\w+-]*)")
_MARK = re.compile(r"<!-- not run here: (.+) -->")
_BETWEEN = {"&&", "||", ";", "|", "&"}
_LOOP = {"do", "then", "else"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; `mark` says why it is not run here, and is empty where it is."""

    document: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def lines(self) -> list[str]:
        """What is typed, line by line, without comments."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]

    @property
    def run_lines(self) -> list[str]:
        """What is typed here: nothing where the block says why not."""
        return [] if self.mark else self.lines


def blocks(document: Path, *languages: str) -> Iterator[Block]:
    """Yield a document's fenced blocks in these languages, in order."""
    lines = document.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        opened = _FENCE.match(lines[at])
        if opened is None:
            at += 1
            continue
        end = next(index for index in range(at + 1, len(lines)) if lines[index].strip() == opened["fence"])
        before = next((line for line in reversed(lines[:at]) if line.strip()), "")
        mark = _MARK.fullmatch(before.strip())
        if opened["language"] in languages:
            text = "\n".join(line.removeprefix(opened["indent"]) for line in lines[at + 1 : end])
            yield Block(document, at + 1, opened["language"], text, mark[1] if mark else "")
        at = end + 1


def all_blocks(*languages: str) -> list[Block]:
    """Find the blocks of every document."""
    return [block for document in DOCUMENTS for block in blocks(document, *languages)]


def words_of(line: str) -> Iterator[list[str]]:
    """Yield the words of each command in a line: no comment, no redirection, no loop's own words, no settings before it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for token in [*lexer, ";"]:
        if token not in _BETWEEN:
            words.append(token)
            continue
        command = _without_redirections(words)
        while command and (command[0] in _LOOP or re.match(r"^[A-Z_]+=", command[0])):
            command = command[1:]
        if command and command[0] not in ("for", "done", "if", "fi"):
            yield command
        words = []


def _without_redirections(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or set(word) <= {"<", ">"}:
            skip = not skip
        else:
            kept.append(word)
    return kept
