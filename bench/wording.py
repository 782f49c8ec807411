"""Numbers in words, the same wherever they are printed."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`3.2 s`, `42 s`, `3 min 05 s`, `7 h 12 min`, `4.2 d`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{seconds / 86400:.1f} d"
