"""Run a bundle's network on a device: a picture in, the picture upscaled out, and a report of what really ran.

    from sredge import Upscaler  # in a checkout of the project: from runtime import Upscaler

    with Upscaler.open("lesrcnn_x2", precision="int8") as upscaler:
        picture = upscaler(image)  # (H, W, 3) uint8 RGB -> (H·scale, W·scale, 3) uint8 RGB

A name is imported when it is first used: `import sredge` alone costs an app's start nothing. What happens is logged by the
standard library's `logging`, below the logger `sredge`: warnings go to stderr unless the app routes them.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bundle import Bundle, Contract, Manifest, Variant
    from .errors import BackendError, BundleError, ImageError, PipelineError, SredgeError, UnknownNameError, UserError
    from .images import read_picture, write_picture
    from .upscaler import Upscaled, Upscaler

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 # in the order in which an app meets them; the reference has the same
    "Upscaler",
    "Upscaled",
    "read_picture",
    "write_picture",
    "Bundle",
    "Manifest",
    "Variant",
    "Contract",
    "SredgeError",
    "UserError",
    "PipelineError",
    "BundleError",
    "BackendError",
    "ImageError",
    "UnknownNameError",
    "__version__",
]

_HOMES = {
    ".bundle": ("Bundle", "Contract", "Manifest", "Variant"),
    ".errors": ("BackendError", "BundleError", "ImageError", "PipelineError", "SredgeError", "UnknownNameError", "UserError"),
    ".images": ("read_picture", "write_picture"),
    ".upscaler": ("Upscaled", "Upscaler"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
