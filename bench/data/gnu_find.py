"""Names and sizes of the files in class folders, asked of GNU find: it starts in 2 ms, and looks faster than Python.

Where there is none, or another one (macOS, BusyBox), it ends with an error, and the caller looks for itself.
"""

from __future__ import annotations

import os
import selectors
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack

Folder = tuple[str, str]  # its name in the listing, and its path

_LONGEST = 100_000  # bytes of folders' names for one process: the limit of a command line is 128 KiB at least
_READ = 1 << 20  # bytes at once
_START = b"/\0d/"  # before the files of each folder: no file has an empty name
_WHAT = (
    *("-maxdepth", "1"),
    *("(", "-type", "f", "-printf", r"%P\0%s/", "-o"),
    *("-type", "l", "-printf", r"%P\0/", "-o"),  # the size is that of what it leads to: the caller asks
    *("-type", "d", "-printf", r"/%P\0d/", ")"),
)


def shares(folders: Sequence[Folder], parts: int) -> list[Sequence[Folder]]:
    """Folders for at least so many processes, each with a command line that is short enough."""
    parts = max(parts, -(-sum(len(os.fsencode(path)) + 1 for _, path in folders) // _LONGEST))
    return [share for start in range(parts) if (share := folders[start::parts])]


class Find:
    """One process that looks at some folders. Raises OSError where it cannot be started."""

    def __init__(self, folders: Sequence[Folder]) -> None:
        self.folders = folders
        self.failed = self.ended = False  # of one that failed nothing counts that it found
        paths = [path if path.startswith("/") else f"./{path}" for _, path in folders]
        command = ["find", "-H", *paths, *_WHAT]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self.pipe = self._process.stdout
        self._texts, self._left = 0, b""  # text number 0 is what stands before the first folder

    def more(self) -> list[tuple[Folder, list[str]]]:
        """What it wrote since: folders with "name, NUL, size" of each file and "name, NUL" of each link in them."""
        read = os.read(self.pipe.fileno(), _READ)
        *texts, self._left = (self._left + read).split(_START)
        if not read:
            self.ended = True
            texts.append(self._left)
            self.failed = self._process.wait() != 0 or self._texts + len(texts) != len(self.folders) + 1
        first, self._texts = self._texts, self._texts + len(texts)
        if self._texts > len(self.folders) + 1 or (not first and texts and texts[0]):
            self.failed = self.ended = True
        if self.failed:
            return []
        numbered = enumerate(texts, first - 1)
        return [(self.folders[number], os.fsdecode(text).split("/")) for number, text in numbered if number >= 0]

    def end(self) -> None:
        """End it: where another's folder cannot be read, nobody waits for its answer."""
        self._process.kill()
        self._process.wait()
        self.pipe.close()


def found(finds: Sequence[Find]) -> Generator[tuple[Find, list[tuple[Folder, list[str]]]]]:
    """What processes find, as they find it. All are ended behind it, however it is left."""
    with ExitStack() as stack, selectors.DefaultSelector() as pipes:
        for find in finds:
            stack.callback(find.end)
            pipes.register(find.pipe, selectors.EVENT_READ, find)
        while pipes.get_map():
            for key, _ in pipes.select():
                find = key.data
                folders = find.more()
                if find.ended:
                    pipes.unregister(find.pipe)
                yield find, folders
