"""A backend that fails or is closed at work: one error of ours, nothing of the backend's own on stderr, no run without an end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.backends import BACKENDS, open_backend
from runtime.bundle import Bundle
from runtime.errors import BackendError
from tests.stand_ins.libraries import ROOT

_OPENING = [entry.name for entry in BACKENDS if entry.opens_graphs]
# Calibration, quantize and the benchmarks make their sessions with the same options as the backend.
RUN = """
import sys
from pathlib import Path
import numpy as np
from runtime.backends import open_backend
from runtime.errors import BackendError
try:
    with open_backend(sys.argv[2], Path(sys.argv[1]).read_bytes(), precision="fp32") as backend:
        backend.precisions()
        for side in (8, 9):
            backend.run(np.zeros((1, 3, side, side), np.float32))
            print("ran", side)
except BackendError as error:
    print(error)
"""


def _graph(*nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> bytes:
    shape = (1, 3, "height", "width")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "output")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], constants)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())


_EIGHT = helper.make_tensor("shape", TensorProto.INT64, (4,), (1, 3, 8, 8))
_UNUSED = helper.make_tensor("unused", TensorProto.FLOAT, (1,), (1.0,))
GRAPHS = {
    "runs": (_graph(helper.make_node("Relu", ["input"], ["output"]), constants=(_UNUSED,)), "ran 8\nran 9\n"),
    "cannot be opened": (_graph(helper.make_node("NoSuchOperator", ["input"], ["output"])), "cannot open this graph"),
    "is no graph": (b"no graph", "cannot open this graph"),
    "cannot run one size": (_graph(helper.make_node("Reshape", ["input", "shape"], ["output"]), constants=(_EIGHT,)), "cannot run"),
}


@pytest.mark.parametrize("backend", _OPENING)
@pytest.mark.parametrize("kind", GRAPHS)
def test_a_backend_writes_nothing_to_stderr(tmp_path: Path, backend: str, kind: str) -> None:
    graph, says = GRAPHS[kind]
    (tmp_path / "graph.onnx").write_bytes(graph)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN, str(tmp_path / "graph.onnx"), backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout


@pytest.mark.parametrize("backend", _OPENING)
def test_runs_that_wait_end_when_the_backend_is_closed_meanwhile(exported_small: Bundle, backend: str) -> None:
    graph = exported_small.read(exported_small.variant("fp32"))
    opened = open_backend(backend, graph, precision="fp32", threads=1)
    array, ended = np.zeros((1, 3, 512, 512), np.float32), []

    def run() -> None:
        with suppress(AttributeError, BackendError):  # which is the Upscaler's affair: it says that it is closed
            opened.run(array)
        ended.append(1)

    opened.run(array)
    threads = [Thread(target=run, daemon=True) for _ in range(4)]  # one at a time runs, the others wait
    for thread in threads:
        thread.start()
    while not ended:
        time.sleep(0.001)
    opened.__exit__(None, None, None)
    for thread in threads:
        thread.join(timeout=60)
    assert len(ended) == 4
