"""Write figures as text, with no more digits than are known."""

from __future__ import annotations

import math


def share_text(share: float, *, digits: int = 1) -> str:
    """0.9996 -> "99.9%": "100.0%" stands for all of it alone, and "0.0%" for none of it; a little is "<0.1%"."""
    step = 10.0**-digits
    percent = round(100 * share, 9)  # a sum of shares that is 1 but for float64's rounding is 1
    if 0 < percent < step:
        return f"<{step:.{digits}f}%"
    return f"{math.floor(round(percent / step, 6)) * step if 100 - step < percent < 100 else percent:.{digits}f}%"


def measured_text(value: float) -> str:
    """Three digits of what was timed: a machine does not repeat itself more closely (0.0412, 4.12, 412, 4120)."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):.{max(places, 0)}f}"
