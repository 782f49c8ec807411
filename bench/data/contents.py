"""Digests of lists and annotations, kept with what the file system said of each file: no plan reads them again."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path

from bench.errors import BenchError, InputCorrupt
from bench.files import read_json, write_json

SETTLED = 2.0  # seconds without a change after which a file's times tell of the next one


@dataclass
class Contents:
    """Digests of files that were read before, with what the file system said of each; kept in `file`."""

    file: Path | None
    known: dict[str, list[object]] = field(default_factory=dict)
    news: bool = False

    def digest_of(self, name: str, path: str, found: os.stat_result) -> str:
        """Of the content; read only where the file system knows of a change."""
        stamp = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        before = self.known.get(name)
        if before is not None and before[:-1] == stamp:
            return str(before[-1])
        with Path(path).open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()[:32]
        if time.time() - found.st_ctime > SETTLED:
            self.known[name], self.news = [*stamp, digest], True
        return digest


def contents_in(file: Path | None) -> Contents:
    """What was kept; nothing where there is no such file, or a damaged one."""
    kept: dict[str, list[object]] = {}
    if file is not None:
        with suppress(OSError, InputCorrupt):
            kept = {name: stamp for name, stamp in read_json(file).items() if isinstance(stamp, list) and stamp}
    return Contents(file, kept)


def keep_contents(contents: Contents) -> None:
    """Write them where that is possible: without them the next look reads the lists again, and that is all."""
    if contents.news and contents.file is not None:
        with suppress(OSError, BenchError):
            write_json(contents.file, contents.known, durable=False)
            contents.news = False
