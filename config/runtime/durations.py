"""Durations in words."""

from __future__ import annotations

import math

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def spell_duration(seconds: float) -> str:
    """Two units at most.

    >>> spell_duration(4810.0)
    '1 h 20 min'
    """
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds < 1:
        return "less than 1 s"
    if round(seconds) < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE_S)
    if minutes < _HOUR_S // _MINUTE_S:
        return f"{minutes} min"
    if minutes < 2 * _DAY_S // _MINUTE_S:
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / _HOUR_S), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def format_duration(seconds: float) -> str:
    """The same of an estimate.

    >>> format_duration(4810.0)
    'about 1 h 20 min'
    """
    text = spell_duration(seconds)
    return text if text.startswith(("unknown", "less")) else f"about {text}"
