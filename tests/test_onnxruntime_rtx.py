"""Backend onnxruntime-rtx: ONNX Runtime's real plugin of TensorRT for RTX, on a machine that has no GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from runtime.backends import choose_entry, open_backend
from runtime.bundle import Bundle
from runtime.cli import main
from runtime.errors import BackendError
from runtime.images import write_picture
from runtime.verify.pairs import find_pairs

NAME = "onnxruntime-rtx"
ENTRY = choose_entry(NAME)
with_plugin = pytest.mark.skipif(not ENTRY.installed, reason=ENTRY.install)


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


no_driver = pytest.mark.skipif(_has_driver(), reason="an NVIDIA driver is installed here")


@with_plugin
@no_driver
@pytest.mark.parametrize("options", [(), ("--precision", "fp32"), ("--device", "cuda:1")])
def test_without_a_driver_the_command_ends_with_the_reason_and_what_to_do(
    exported_small: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Sequence[str]
) -> None:
    write_picture(tmp_path / "in.png", np.zeros((16, 16, 3), np.uint8))
    made = tmp_path / "out.png"
    command = ["upscale", str(tmp_path / "in.png"), "-o", str(made), "--bundle", str(exported_small.directory), "--backend", NAME]
    with pytest.raises(SystemExit) as ended:
        main([*command, *options])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert "cannot load the plugin of TensorRT for RTX" in said[-2]
    assert "libcuda.so.1" in said[-2]
    assert said[-1].startswith(" hint: nvidia-smi shows the driver")
    assert not made.exists()


@with_plugin
@no_driver
def test_the_libraries_that_the_plugin_needs_are_found_but_for_the_drivers(exported_small: Bundle) -> None:
    """Twice: a registration that failed is tried again, and says the same."""
    graph = exported_small.read(exported_small.variant("fp32"))
    for _ in range(2):
        with pytest.raises(BackendError, match=r"with error: libcuda\.so\.1: cannot open"):
            open_backend(NAME, graph, precision="fp32")


def test_it_is_never_taken_unless_it_is_asked_for_by_name(exported_small: Bundle) -> None:
    assert not ENTRY.opens_graphs
    assert NAME not in {pair.backend.name for pair in find_pairs(exported_small, precision="fp32")}
    if ENTRY.installed:
        assert [pair.backend.name for pair in find_pairs(exported_small, precision="fp32", backend=NAME)] == [NAME]
