"""Compile a graph for one architecture in a process of its own: an ONNX graph in, a context model and each node's types out.

The types are read from the graph that QNN was given, which its provider writes down as JSON; the reasons of what it does not take
from its trace. https://github.com/onnxruntime/onnxruntime-qnn/blob/main/docs/execution_providers/QNN-ExecutionProvider.md
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from runtime.backends import RanIn
from runtime.errors import PipelineError

_PROGRAM = Path(__file__).with_name("context_process.py")
_LONGEST_S = 3600
# What ONNX Runtime's graph optimiser adds to the name of a node that it moves or fuses.
_REWRITTEN = re.compile(r"(_token_\d+|/MatMulAddFusion)$")
_TYPES: dict[int, RanIn] = {0x408: "int8", 0x416: "int8", 0x308: "int8", 0x232: "fp16", 0x216: "fp16"}
"""QnnTypes.h's codes for numbers of fixed and of floating point: layers of 16-bit codes have int8 weights; floats are fp16."""
_PAIRS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class QnnNode:
    """A node of the graph that QNN compiled, by the name of the ONNX node that it computes."""

    name: str
    type: str
    reads: RanIn


@dataclass(frozen=True)
class Context:
    """An ONNX model that holds a context binary, and what was compiled."""

    model: bytes
    nodes: tuple[QnnNode, ...]


def compile_context(model: onnx.ModelProto, architecture: str, *, name: str) -> Context:
    """Compile for that architecture ("v73"); `name` is for messages.

    Raises:
        PipelineError: QNN does not take every node, naming which and why, or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph, made = Path(folder) / "graph.onnx", Path(folder) / "context.onnx"
        graph.write_bytes(model.SerializeToString())
        command = [sys.executable, str(_PROGRAM), str(graph), architecture, folder]
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        what = f"QNN does not compile {name} for {architecture}"
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False, env=paths, cwd=folder)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PipelineError(f"{what}: {error}") from error
        accounts = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
        left = _left_out(model, accounts)
        if left:
            raise PipelineError(f"{what}: {len(left)} nodes would stay on the CPU: {'; '.join(left)}", hint=_HINT)
        if ran.returncode or not made.is_file():
            told = [line for line in ran.stderr.splitlines() if line.strip()]
            raise PipelineError(f"{what}: {told[-1] if told else f'its process ended with {ran.returncode}'}", hint=_HINT)
        return Context(made.read_bytes(), tuple(_nodes(accounts)))


_HINT = "change the network; or run that part apart from this graph"


def _left_out(model: onnx.ModelProto, accounts: list[dict[str, Any]]) -> list[str]:
    """Return "operator (name): why" of what QNN does not take; what reads weights that it leaves is named, and not the weights."""
    readers = {name: node for node in model.graph.node for name in node.input}
    nodes = {node.name: node for node in model.graph.node}
    found: dict[str, str] = {}
    for account in accounts:
        for left in account.get("unsupported_nodes", ()):
            node = nodes.get(_REWRITTEN.sub("", left["node_name"]))
            if node is not None and node.op_type in _PAIRS:
                node = readers.get(node.output[0], node)
            where = f"{left['op_type']} ({left['node_name']})" if node is None else f"{node.op_type} ({node.name})"
            found.setdefault(where, f"{where}: {left['reason']}")
    return list(found.values())


def _nodes(accounts: list[dict[str, Any]]) -> list[QnnNode]:
    found = []
    for graph in (account["graph"] for account in accounts if "graph" in account):
        for name, node in graph["nodes"].items():
            code = graph["tensors"][node["input_names"][0]]["data_type"]
            found.append(QnnNode(_REWRITTEN.sub("", name), node["type"], _TYPES.get(code, "other")))
    return found
