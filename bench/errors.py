"""One error for everything that a user can mend, and the wording that all of them share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from bench.wording import printable


class BenchError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with code 2.

    It names files, whose names are bytes: as text it can be printed and written whatever they are.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class InputCorrupt(BenchError):
    """A file of this project's own making (result, checkpoint, weights) cannot be read back."""


class Stopped(BaseException):
    """The worker was asked to stop and has saved its state: not a failure, the job can go on later.

    Derives from BaseException so that no ``except Exception`` on the way takes it for an error.
    """


class ClaimLost(Stopped):
    """Another process has taken this worker's job over: it ends and leaves the run folder as it is."""


def unknown_name(kind: str, found: str, allowed: Iterable[str]) -> BenchError:
    """The error for a name that does not exist: what was found, what is allowed, the nearest."""
    names = sorted(allowed)
    nearest = get_close_matches(found, names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    between = "; " if any("," in name for name in names) else ", "
    return BenchError(f"unknown {kind} {found!r}.{hint} Allowed: {between.join(names) or 'none'}.")


def first_words(error: BaseException) -> str:
    """What a library's error says before it goes on with advice to its own callers."""
    _, found, text = str(error).rpartition("WeightsUnpickler error: ")  # torch.load's own, between two of advice
    text = text.strip().partition("\n")[0] if found else " ".join(text.split())
    text = printable(re.split(r"\.(?: |$)", text, maxsplit=1)[0])[:100]
    return text if " " in text else f"{type(error).__name__}: {text}".removesuffix(": ")


def one_line(error: BaseException) -> str:
    """The error as a single line, for state files and tables."""
    text = printable(" ".join(str(error).split()))
    return text if isinstance(error, BenchError) else f"{type(error).__name__}: {text}"
