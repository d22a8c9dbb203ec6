"""How a published number was measured (channel, border, rounding, resize), as data: a new protocol is one entry here.

Luma is ITU-R BT.601 as MATLAB's rgb2ycbcr has it: 16 + (65.481 R + 128.553 G + 24.966 B) / 255 on 8-bit RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from runtime.errors import UnknownNameError
from runtime.images import Rounding
from runtime.targets import Precision


@dataclass(frozen=True)
class Published:
    """A figure that somebody published under a protocol, on pictures and a machine of theirs."""

    model: str
    scale: float
    precision: Precision
    psnr_db: float
    ssim: float


class Channel(Enum):
    """What PSNR and SSIM are taken over."""

    LUMA = "luma, rounded"
    RGB = "RGB"


@dataclass(frozen=True)
class Protocol:
    """How PSNR and SSIM are taken.

    Attributes:
        crop_scale: whether `scale` pixels, rounded up, are left out on each side.
        side: both pictures are resized by area, the low one to side×side, the high one to side·scale; None leaves them.
        source: whose protocol it is.
        published: figures that they printed, and `published_on` the pictures those are of.
    """

    name: str
    channel: Channel
    rounding: Rounding
    crop_scale: bool
    side: int | None
    source: str
    published: tuple[Published, ...] = ()
    published_on: str = ""

    def __str__(self) -> str:
        crop = "scale pixels cropped on each side" if self.crop_scale else "no crop"
        resize = "" if self.side is None else f", squeezed by area to {self.side}×{self.side} input"
        return f"{self.name}: {self.channel.value}, output {self.rounding.value}, {crop}{resize}"


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol("paper-y", Channel.LUMA, Rounding.NEAREST, True, None, "the field's papers since SRCNN"),
    Protocol("lesrcnn", Channel.LUMA, Rounding.TRUNCATE, True, None, "LESRCNN's authors, arXiv 2007.04344"),
    Protocol(
        "vacc",
        Channel.RGB,
        Rounding.NEAREST,
        False,
        128,
        "VastModelZOO, for its int8 accelerator",
        published=(
            Published("lesrcnn", 2, "fp32", 29.763, 0.916),
            Published("lesrcnn", 2, "int8", 27.575, 0.877),
            Published("lesrcnn", 4, "fp32", 25.951, 0.769),
            Published("lesrcnn", 4, "int8", 25.258, 0.752),
        ),
        published_on="DIV2K validation",
    ),
    Protocol("rgb", Channel.RGB, Rounding.NEAREST, True, None, "all three channels as they are"),
)


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name; UnknownNameError lists the valid ones."""
    for protocol in PROTOCOLS:
        if protocol.name == name:
            return protocol
    raise UnknownNameError("protocol", name, valid=(protocol.name for protocol in PROTOCOLS))
