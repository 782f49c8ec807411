"""Damaged images of a pretraining: named once each, remembered over restarts, an error when there are too many.

Files are known by their names below the data set, which are the same in its folder, a pack and a copy of one: these
may change between two attempts, and from node to node. They are text (`wording.printable`): a name that is no UTF-8 can
be printed and read back.

Each rank keeps `unreadable-<rank>.jsonl` in the run folder, a line a file with the step that met it first; a resumed
run goes on from the lines up to its checkpoint, so its counts are those of an undisturbed run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bench.data.as_is import names_of
from bench.errors import BenchError
from bench.files import write_atomic
from bench.wording import printable

LEAST = 10  # damaged files before their share counts
SHARE = 0.01  # of the images read so far


class Unreadable:
    """The damaged images that this rank knows of.

    `data` is the name of the data set, `root` its folder here, `images` their number in the split.
    """

    def __init__(
        self, folder: Path, rank: int, *, data: str, root: Path, images: int, batch_size: int, done: int
    ) -> None:
        self.root = root
        self.data, self.images, self.batch_size = data, images, batch_size
        self.file = folder / f"unreadable-{rank}.jsonl"
        lines = [line for file in sorted(folder.glob("unreadable-*.jsonl")) for line in _lines(file, done)]
        # paths stood there before names
        self.known = set(names_of((str(line["file"]) for line in lines), printable(root)))
        if self.file.exists():
            kept = "".join(json.dumps(line) + "\n" for line in _lines(self.file, done))
            write_atomic(self.file, kept) if kept else self.file.unlink()

    @property
    def count(self) -> int:
        """Damaged files met so far."""
        return len(self.known)

    def add(self, step: int, files: Sequence[Path]) -> None:
        """Note the damaged files of a step.

        Raises BenchError when they are more than 1 % of the images read, and at least 10.
        """
        for path, below in zip(files, names_of(map(str, files), self.root), strict=True):
            name = _one_line(below)
            if name not in self.known:
                self.known.add(name)
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step + 1, "file": name}) + "\n")
                print(f"unreadable image, replaced by another of its batch: {_one_line(path)}", flush=True)
        read = min(self.images, (step + 1) * self.batch_size)
        if files and self.count >= LEAST and self.count > SHARE * read:
            raise BenchError(
                f"{self.count} of {read:,} images read so far cannot be decoded, more than {SHARE:.0%}, e.g. "
                f"{files[0]}; "
                f"all are named in {self.file.parent}/unreadable-*.jsonl. `bench data check {self.data}` looks the "
                "data set over."
            )

    def merge(self, others: Sequence[set[str]]) -> None:
        """What the other ranks know."""
        self.known.update(*others)


def _one_line(name: str | Path) -> str:
    return printable(name).replace("\n", r"\x0a")


def _lines(file: Path, done: int) -> list[dict[str, object]]:
    """The lines of the first `done` steps; one that a crash cut short is left out."""
    try:
        content = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:  # its rank found nothing to keep, and was faster
        return []
    found = []
    for text in content.splitlines():
        try:
            line = json.loads(text)
            if line["step"] <= done:
                found.append({"step": int(line["step"]), "file": printable(line["file"])})
        except (ValueError, KeyError, TypeError):
            continue
    return found
