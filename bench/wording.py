"""Numbers and names in words, the same wherever they are printed."""

from __future__ import annotations

import re

_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def printable(text: object) -> str:
    r"""As text that every file and every UTF-8 terminal takes: a byte of a file name that is no UTF-8 as `\xe9`.

    File names are bytes, and Python holds those that are no text as lone surrogates, which cannot be encoded. Control
    characters are shown in the same way, but for tabs and the ends of lines.
    """
    return _NO_TEXT.sub(_escaped, str(text))


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    if 0xDC80 <= number <= 0xDCFF:  # surrogateescape (PEP 383): the byte, moved up
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def size(count: float) -> str:
    """Bytes: `3 kB`, `38 MB`, `1.2 GB`."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if count >= 0.95 * one:
            return f"{count / one:.{int(count < 9.95 * one)}f} {unit}"
    return f"{count / 1e3:.0f} kB"


def counted(number: float, thing: str) -> str:
    """`1 job`, `3 jobs`, `2.5 epochs`."""
    return f"{number if isinstance(number, int) else format(number, 'g')} {thing}{'' if number == 1 else 's'}"


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
