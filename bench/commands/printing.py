"""Printing never fails: what stdout's encoding lacks is written with the characters that it has."""

from __future__ import annotations

import codecs
import io
import sys

import typer

_ASCII = {
    "\N{MINUS SIGN}": "-",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{MIDDLE DOT}": ".",
    "\N{MULTIPLICATION SIGN}": "x",
}
_HANDLER = "bench"
MISUSE: type[Exception] = typer.BadParameter.__mro__[1]  # UsageError, of the click that typer brings


def never_fail() -> None:
    """Let stdout and stderr of this process print any text, in any locale, also names that are no text at all."""
    codecs.register_error(_HANDLER, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def misused(error: Exception) -> int:
    """Answer what the parser refuses in one line, as every other mistake; without a command the help. The exit code."""
    said = str(getattr(error, "format_message", error.__str__)())
    if "\n" in said:
        print(said, file=sys.stderr)
    else:
        command = getattr(getattr(error, "ctx", None), "command_path", "bench")
        print(f"error: {said.rstrip('.')}: `{command} --help` lists what there is.", file=sys.stderr)
    return 2


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """For codecs: bytes of a file's name by their numbers, a sign as its like in ASCII or "?"."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_in_ascii(character) for character in text), error.end


def _in_ascii(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that os.fsdecode could not read
        return f"\\x{ord(character) - 0xDC00:02x}"
    return _ASCII.get(character, "?")
