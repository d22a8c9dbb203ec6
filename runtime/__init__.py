"""What ships on the device: open a bundle, run it, say what really ran.

from runtime import Upscaler
with Upscaler.open("build/lesrcnn_x2", precision="int8") as upscaler:
    picture = upscaler(image)  # (H, W, 3) uint8 RGB -> (H·scale, W·scale, 3) uint8 RGB
"""

from runtime.bundle import Bundle, Manifest, Variant
from runtime.errors import SredgeError, UserError
from runtime.upscaler import Upscaler

__all__ = ["Bundle", "Manifest", "SredgeError", "Upscaler", "UserError", "Variant"]
