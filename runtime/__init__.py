"""What ships on the device: open a bundle, run it, say what really ran.

from sredge import Upscaler  # in a checkout: from runtime import Upscaler
with Upscaler.open("build/lesrcnn_x2", precision="int8") as upscaler:
    picture = upscaler(image)  # (H, W, 3) uint8 RGB -> (H·scale, W·scale, 3) uint8 RGB

A name is imported when it is first used: `import sredge` alone costs an app's start nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle import Bundle, Manifest, Variant
    from .errors import SredgeError, UserError
    from .upscaler import Upscaler

__all__ = ["Bundle", "Manifest", "SredgeError", "Upscaler", "UserError", "Variant"]

_HOMES = {
    "Bundle": ".bundle",
    "Manifest": ".bundle",
    "SredgeError": ".errors",
    "Upscaler": ".upscaler",
    "UserError": ".errors",
    "Variant": ".bundle",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
