"""The code that queued jobs run: a copy of the packages under runs/snapshots/<digest>, made when they are submitted.

So editing or updating the checkout does not change what is in the queue. Same code and commit, same folder. Plug-in
folders are copied too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from bench import ROOT
from bench.files import own_suffix
from bench.packages import PACKAGES
from bench.runs.folder import Runs

PLUGINS = ("methods", "evals", "tables")
LEFT_OUT = {"__pycache__", "out", "records"}  # outputs that by default lie inside the packages


@dataclass(frozen=True)
class Snapshot:
    """Folders for PYTHONPATH and BENCH_PLUGINS."""

    code: Path
    plugins: tuple[Path, ...]


def take(runs: Runs, commit: str) -> Snapshot:
    """Copy the code unless the same is there already. `commit` is what the workers will write into their results."""
    given = [Path(folder).resolve() for folder in filter(None, os.environ.get("BENCH_PLUGINS", "").split(os.pathsep))]
    files = [(Path("code") / name, path) for name, path in _files(ROOT, PACKAGES)]
    for number, folder in enumerate(given):
        files += [(Path("plugins") / str(number) / name, path) for name, path in _files(folder, PLUGINS)]
    content = {name: path.read_bytes() for name, path in files}
    content[Path("code") / "COMMIT"] = commit.encode()
    digest = sha256()
    for name in sorted(content):
        digest.update(f"{name}\0{len(content[name])}\0".encode() + content[name])
    folder = runs.root / "snapshots" / digest.hexdigest()[:16]
    if not folder.exists():
        _write(folder, content, [Path("plugins") / str(number) for number in range(len(given))])
    return Snapshot(folder / "code", tuple(folder / "plugins" / str(number) for number in range(len(given))))


def _write(folder: Path, content: dict[Path, bytes], empty: list[Path]) -> None:
    temporary = folder.with_name(f".{folder.name}.{own_suffix()}")
    for part in empty:
        (temporary / part).mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).write_bytes(data)
    try:
        temporary.rename(folder)
    except OSError:  # another driver was first
        shutil.rmtree(temporary)
        if not folder.exists():
            raise


def _files(root: Path, folders: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root)
            if path.is_file() and not LEFT_OUT.intersection(name.parts[:-1]) and not path.name.startswith("."):
                yield name, path
