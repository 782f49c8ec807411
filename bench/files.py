"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TypeAlias

from bench.errors import BenchError, InputCorrupt

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced (`durable`) and renamed over `path`, else removed.

    Raises BenchError when the disk is full; the old file, if any, is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    make_folder(path.parent)
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.rename(path)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full(path) from error
        raise


def make_folder(folder: Path) -> None:
    """Create a folder that can be written to. Raises BenchError when something is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise (
            disk_full(folder)
            if is_disk_full(error)
            else BenchError(f"the folder {folder} cannot be made: {error.strerror}.")
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BenchError(f"the folder {folder} cannot be written to.")


def write_atomic(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace the content of `path` in one step."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: object, *, durable: bool = True) -> None:
    """Replace `path` by readable JSON; NaN and infinity are refused with ValueError."""
    write_atomic(path, json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n", durable=durable)


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in `path`. Raises InputCorrupt when it is not one, FileNotFoundError when there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise InputCorrupt(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(data, dict):
        raise InputCorrupt(f"{path} holds {type(data).__name__}, expected a JSON object.")
    return data


def file_sha256(*paths: Path) -> str:
    """Hex digest of a file, or of several one after another."""
    digest = sha256()
    for path in paths:
        with path.open("rb") as file:
            file_digest(file, lambda: digest)
    return digest.hexdigest()


def set_aside(path: Path) -> Path:
    """Rename a broken file so that it is kept for a look but never read again; returns the new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def disk_full(path: Path) -> BenchError:
    """The one line for a full disk."""
    return BenchError(
        f"the disk is full: could not write {path}. Free some space and run the same command again; nothing finished "
        "is lost."
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether the error comes from a full disk or an exceeded quota (torch wraps it in a RuntimeError)."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, RuntimeError) and (
        "No space left" in str(error) or "file write failed" in str(error) or "unexpected pos" in str(error)
    )
