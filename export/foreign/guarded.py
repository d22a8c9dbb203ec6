"""Run a graph in a process of its own, where a wrong size could kill the process.

ONNX Runtime divides integers without looking: a graph that divides one size by another that comes out as 0 for a small picture ends
with SIGFPE, and so would the export that only tried that size.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.foreign.guarded_process import receive, send
from export.foreign.original import Array, Run, open_graph
from export.graph.constants import constant
from runtime.errors import BackendError

_PROGRAM = Path(__file__).with_name("guarded_process.py")


def open_guarded(model: ir.Model) -> Run:
    """Open a float32 graph in ONNX Runtime, in another process where it divides integers by what it computes.

    What is returned raises BackendError where the graph does not run, or ends its process.

    Raises:
        BackendError: it cannot be opened.
    """
    graph = ir.to_proto(model).SerializeToString()
    run = open_graph(graph)
    return _Guarded(graph) if any(_may_divide_by_zero(node) for node in model.graph) else run


def _may_divide_by_zero(node: ir.Node) -> bool:
    if node.op_type not in ("Div", "Mod") or node.inputs[0] is None:
        return False
    divisor = constant(node.inputs[1])
    is_float = node.inputs[0].dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    return not is_float and (divisor is None or not bool(np.all(divisor)))


class _Guarded:
    """Sends arrays to a process that runs the graph, and starts it again where one ended it."""

    def __init__(self, graph: bytes) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._graph = Path(self._folder.name) / "graph.onnx"
        self._graph.write_bytes(graph)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, array: Array) -> Array:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send(array, process.stdin)
            answer = receive(process.stdout)
        except (OSError, EOFError):  # what a pipe to a process that has ended gives
            self._process = None
            code = process.wait()
            raise BackendError(f"{array.shape} ends the process that runs this graph (signal {-code})") from None
        if answer.dtype.kind == "U":
            raise BackendError(str(answer))
        result: Array = answer
        return result

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, str(_PROGRAM), str(self._graph)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            weakref.finalize(self, _end, self._process)
        return self._process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
