"""What ships on the device: open a bundle, run it, say what really ran.

from runtime import Upscaler
with Upscaler.open("build/lesrcnn_x2", precision="int8") as upscaler:
    picture = upscaler(image)  # (H, W, 3) uint8 RGB -> (H·scale, W·scale, 3) uint8 RGB

A name is imported when it is first used: `import runtime` alone costs an app's start nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.bundle import Bundle, Manifest, Variant
    from runtime.errors import SredgeError, UserError
    from runtime.upscaler import Upscaler

__all__ = ["Bundle", "Manifest", "SredgeError", "Upscaler", "UserError", "Variant"]

_HOMES = {
    "Bundle": "runtime.bundle",
    "Manifest": "runtime.bundle",
    "SredgeError": "runtime.errors",
    "Upscaler": "runtime.upscaler",
    "UserError": "runtime.errors",
    "Variant": "runtime.bundle",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
