"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TypeAlias

from bench.errors import BenchError, InputCorrupt

FULL_BYTES = 16e6  # a disk with less is full
Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced (`durable`) and renamed over `path`, else removed.

    Raises BenchError when the disk is full; the old file, if any, is untouched.
    """
    temporary = path.with_name(f".{path.name}.{own_suffix()}.tmp")
    make_folder(path.parent)
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException as error:  # also where the job is asked to stop just now
        full = as_full_disk(error, path)
        temporary.unlink(missing_ok=True)
        if full is not None:
            raise full from error
        raise


@contextmanager
def alone(file: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file; while another process has it, `busy` is called again and again: it waits or raises.

    A killed process holds no lock. Where the file system knows none, nobody waits for anybody.
    """
    with file.open("ab") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                busy()
            except OSError:
                break
        yield


def own_suffix() -> str:
    """For the name of what only this call writes: containers that share a disk have equal process numbers."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def make_folder(folder: Path) -> None:
    """Create a folder that can be written to. Raises BenchError when something is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        other = BenchError(f"the folder {folder} cannot be made: {error.strerror}.")
        raise as_full_disk(error, folder) or other from error
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


def as_full_disk(error: BaseException, path: Path) -> BenchError | None:
    """The one line for a full disk, when that is why `path` could not be written; else None.

    What fails meanwhile on another disk, which its own name tells, is not the disk of `path`.
    """
    if not _is_for_want_of_room(error):
        return None
    return _disk_full(Path(os.fsdecode(error.filename)) if isinstance(error, OSError) and error.filename else path)


def want_of_room(error: BaseException, folder: Path) -> BenchError | None:
    """The one line for an error of unknown origin that says that there is no room, when a job writes to `folder`.

    None for any other error. A disk is called full only where it is.
    """
    if not _is_for_want_of_room(error):
        return None
    if isinstance(error, OSError) and error.filename:
        return _disk_full(Path(os.fsdecode(error.filename)))
    for place in (folder, Path(tempfile.gettempdir())):
        if _is_full(place):
            return _disk_full(place)
    return BenchError(
        f"no room for something that is not a file of this job, whose disk has {_free(folder) / 1e9:.1f} GB: "
        f"{' '.join(str(error).split())}"
    )


def _disk_full(path: Path) -> BenchError:
    return BenchError(
        f"the disk is full: could not write {path}. Free some space and run the same command again; nothing finished "
        "is lost."
    )


def _is_for_want_of_room(error: BaseException) -> bool:
    """Whether it says that a disk is full or a quota exceeded (torch wraps it in a RuntimeError)."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error)
    if not isinstance(error, RuntimeError) or "shared memory" in text:  # that is /dev/shm, not a disk
        return False
    return any(words in text for words in ("No space left", "file write failed", "unexpected pos"))


def _is_full(folder: Path) -> bool:
    """Too little room for anything, or no further file: what could not be written may be gone again."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < FULL_BYTES or bool(found.f_files and not found.f_favail)


def _free(folder: Path) -> float:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0.0
    return float(found.f_bavail * found.f_frsize)
