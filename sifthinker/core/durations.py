"""Durations as people read them."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """Seconds for a person: "12.3 s", "5 min 7 s", "2 h 30 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
