"""Import ncnn so that its threads sleep where they wait for one another: no input, the package `ncnn` out.

ncnn's wheel has an OpenMP of its own, whose threads spin between two layers unless the environment says otherwise while it loads.
Beside other processes such a thread spins in the place of the one that it waits for: on two loaded cores LESRCNN x2 at 96×96 took
1,051 ms in two threads, and 402 with threads that sleep; openvino took 416 and 433 beside them.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

__all__ = ["ncnn"]

_POLICY = "OMP_WAIT_POLICY"  # https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fWAIT_005fPOLICY.html
_ASKED = (_POLICY, "GOMP_SPINCOUNT")  # whoever sets one of these has decided


def _import() -> ModuleType:
    if any(name in os.environ for name in _ASKED):
        return importlib.import_module("ncnn")
    os.environ[_POLICY] = "passive"
    try:
        return importlib.import_module("ncnn")
    finally:
        del os.environ[_POLICY]


ncnn: Any = _import()
