"""Numbers as a person reads them in a narrow space; '-' means unknown."""

from __future__ import annotations

import math

UNITS = ("", "k", "M", "G", "T")


def compact(value: float | None) -> str:
    """Return three significant digits and a unit: 950, 12.3k, 4.2M, 10M; at most six characters from -999T to 999T."""
    if value is None or not math.isfinite(value):
        return "-"
    unit = 0
    # The rounded number decides, else 999 999 would read 1000k.
    while float(f"{abs(value):.3g}") >= 1000 and unit < len(UNITS) - 1:
        value /= 1000
        unit += 1
    digits = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return digits + UNITS[unit]


def short(value: float | None) -> str:
    """Return a number of any size in about six characters: 401.2, 12.3, 0.012, 1.2e-5, 12.3k."""
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    if size >= 9999.5:
        return compact(value)
    if size >= 999.95:
        return f"{value:.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995:
        return f"{value:.2f}"
    if size >= 0.01 or size == 0:
        return f"{value:.3f}" if size else "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as whole per cent."""
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:.0f}%"


def duration(seconds: float | None) -> str:
    """Return 07:05, 1:23:45, 12h34m or 3d04h: at most seven characters up to 999 days."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02d}h"
    if hours >= 10:
        return f"{hours}h{minute:02d}m"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"
