"""The files that a data set's readers read: names, sizes, and of lists and annotations the content. Imports no torch.

Times and absolute paths are no part of it, so that a true copy elsewhere has the same listing. Every file is asked for
its size at every look: one that was overwritten in place leaves its folder's time as it was.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.data.contents import Contents
from bench.data.gnu_find import Find, found, shares
from bench.data.names import MACOS, SHARD, SUFFIXES
from bench.errors import BenchError
from bench.machine import cores

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zip", ".7z", ".rar")  # what the images were unpacked from
LARGEST = 1 << 30  # bytes of a file that is read for its content; of a larger one the size has to do
PROBES, PROBE = 15, 16  # so often so many files are looked at until it is known how fast that is
SLOW = 40e-6  # seconds a look: the file system is asked over a network, and many questions at once save the waiting
THREADS, CHUNK = 16, 64
PROBED = 8  # class folders after which it is known how many images they hold
MANY = 20_000  # images that are shared among processes
PROCESSES = 4
GONE = -1  # bytes of a link that leads nowhere

Entry = os.DirEntry[str]


@dataclass(frozen=True)
class Scope:
    """What belongs to a data set below its folder.

    "classes": images in class folders. "tree": images, and the content of what else is there. "file": its content.
    """

    path: str  # "" for the folder itself
    kind: Literal["classes", "tree", "file"]


@dataclass(frozen=True)
class Listing:
    """Files by the folder that they lie in, relative to the data set's: name, NUL, size, NUL, and so on, by name.

    Where the content counts, its digest stands behind the size and a colon.
    """

    folders: Mapping[str, str]
    files: int
    bytes: int

    def digest(self) -> str:
        """Hex sha256 of all of it."""
        found = sha256()
        for name in sorted(self.folders, key=os.fsencode):
            found.update(b"%s\0\0%s\0\0" % (os.fsencode(name), os.fsencode(self.folders[name])))
        return found.hexdigest()


def look(root: Path, scopes: Sequence[Scope], contents: Contents) -> Listing:
    """The listing of a data set. Raises BenchError for a folder or a list that cannot be read."""
    with closing(_Walk(str(root), contents)) as walk, _without_collector():
        try:
            for scope in scopes:
                walk.add(scope)
        except OSError as error:
            raise BenchError(f"{error.filename or root} cannot be read ({error.strerror or error}).") from error
    return Listing(walk.folders, walk.files, walk.bytes)


@contextmanager
def _without_collector() -> Iterator[None]:
    """No search for garbage among all that torch has made, for every few hundred files that are looked at."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Walk:
    """One look: what was found so far, and how fast the file system answers."""

    def __init__(self, root: str, contents: Contents) -> None:
        self.root, self.contents = root, contents
        self.folders: dict[str, str] = {}
        self.files = self.bytes = 0
        self.probes: list[float] = []  # seconds a look, of a few at a time: the median knows nothing of a busy machine
        self.pool: ThreadPoolExecutor | None = None
        self.images = _Ends()

    def close(self) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown()

    def add(self, scope: Scope) -> None:
        """What belongs to a scope; what is not there has nothing."""
        path = f"{self.root}/{scope.path}" if scope.path else self.root
        if scope.kind == "file":
            self.add_file(scope.path, path)
        elif not Path(path).is_dir():
            return
        elif scope.kind == "classes":
            with os.scandir(path) as found:
                classes = [entry.name for entry in found if not _hidden(entry.name) and entry.is_dir()]
            self.add_classes([(_join(scope.path, name), f"{path}/{name}") for name in classes])
        else:
            self.add_tree(scope.path, path, (os.path.realpath(path),))

    def add_file(self, name: str, path: str) -> None:
        """A list by its content."""
        try:
            found = Path(path).stat()
        except FileNotFoundError:
            return
        folder, _, own = name.rpartition("/")
        size = f"{found.st_size}:{self.contents.digest_of(name, path, found)}"
        self.folders[folder] = f"{self.folders.get(folder, '')}{own}\0{size}\0"
        self.files, self.bytes = self.files + 1, self.bytes + found.st_size

    def add_classes(self, classes: Sequence[tuple[str, str]]) -> None:
        """Class folders (name, path); very many images are asked of GNU find, on each core."""
        first, rest = classes[:PROBED], classes[PROBED:]
        self.add_share(first)
        if not rest or self.files * len(rest) <= MANY * len(first) or self.is_slow():
            self.add_share(rest)
            return
        parts = shares(rest, min(cores(), PROCESSES))
        finds: list[Find] = []
        with suppress(OSError):  # there is no find, or no more processes may be made
            for share in parts:
                finds.append(Find(share))
        walks = {find: _Walk(self.root, self.contents) for find in finds}
        with closing(found(finds)) as pieces:
            for find, folders in pieces:
                for (name, path), files in folders:
                    walks[find].add_found(name, path, files)
                if find.failed:  # looking here says what is wrong, and that ends the others
                    self.add_share(find.folders)
                elif find.ended:
                    self.take(walks[find])
        for share in parts[len(finds) :]:
            self.add_share(share)

    def add_share(self, classes: Sequence[tuple[str, str]]) -> None:
        """Class folders, one after another."""
        for name, path in classes:
            self.add_class(name, path)

    def take(self, walk: _Walk) -> None:
        """What another one has found."""
        self.folders |= walk.folders
        self.files, self.bytes = self.files + walk.files, self.bytes + walk.bytes

    def add_found(self, name: str, path: str, files: Sequence[str]) -> None:
        """The images of a class folder, of what find says of it."""
        ends, texts, sizes = self.images, [], []
        for file in files:
            own, _, size = file.partition("\0")
            if ends[own[-6:]] and own[0] != ".":
                texts.append(file)
                sizes.append(size)
        if "d" in sizes or "" in sizes:  # a folder with an image's name is none; what a link leads to has to be asked
            images = [text.partition("\0")[::2] for text in texts]
            sized = [(own, int(size) if size else _size_at(path, own)) for own, size in images if size != "d"]
            self.note(name, [f"{own}\0{size}" for own, size in sized], [size for _, size in sized])
        else:
            self.note(name, texts, list(map(int, sizes)))

    def add_class(self, name: str, path: str) -> None:
        """The images of a class folder, as bench/data/sets/class_folders.py chooses them."""
        ends = self.images
        with _opened(path) as entries:
            images = [
                entry
                for entry in entries
                if ends[entry.name[-6:]]
                and entry.name[0] != "."
                and (entry.is_file(follow_symlinks=False) or entry.is_symlink())
            ]
            sizes = self.sizes(images)
            self.note(name, [f"{entry.name}\0{size}" for entry, size in zip(images, sizes, strict=True)], sizes)

    def add_tree(self, name: str, path: str, above: tuple[str, ...]) -> None:
        """A folder and all below it: images and packs by their sizes, all else but archives by content."""
        inside: list[str] = []
        with _opened(path) as entries:
            sized: list[Entry] = []
            read: list[Entry] = []
            for entry in entries:
                own = entry.name
                if own[0] == "." or own == MACOS:
                    continue
                if entry.is_dir():
                    inside.append(own)
                elif self.images[own[-6:]] or own.endswith(SHARD):
                    sized.append(entry)
                elif not own.lower().endswith(ARCHIVES) and (entry.is_file() or entry.is_symlink()):
                    read.append(entry)
            sizes = self.sizes([*sized, *read])
            marks = [self.content(_join(name, entry.name), f"{path}/{entry.name}", entry) for entry in read]
            found = zip((*sized, *read), sizes, [""] * len(sized) + marks, strict=True)
            self.note(name, [f"{entry.name}\0{size}{mark}" for entry, size, mark in found], sizes)
        for own in inside:
            below = f"{path}/{own}"
            real = os.path.realpath(below)
            if real not in above:  # a link upwards would never end
                self.add_tree(_join(name, own), below, (*above, real))

    def content(self, name: str, path: str, entry: Entry) -> str:
        """The digest of a file's content, behind a colon; "" of a very large one, where the size has to do."""
        try:
            found = entry.stat()
        except FileNotFoundError:
            return ""
        return "" if found.st_size > LARGEST else f":{self.contents.digest_of(name, path, found)}"

    def sizes(self, entries: Sequence[Entry]) -> list[int]:
        """Bytes of each, asked one by one where that is fast and many at once where it is not."""
        found: list[int] = []
        while len(self.probes) < PROBES and len(found) < len(entries):
            begun, some = time.perf_counter(), entries[len(found) : len(found) + PROBE]
            found += _sizes(some)
            self.probes.append((time.perf_counter() - begun) / len(some))
        rest = entries[len(found) :] if found else entries
        if not self.is_slow() or len(rest) < 2:
            return found + _sizes(rest)
        if self.pool is None:
            from concurrent.futures import ThreadPoolExecutor  # brings logging: only where it is worth it

            self.pool = ThreadPoolExecutor(THREADS)
        chunks = [rest[start : start + CHUNK] for start in range(0, len(rest), CHUNK)]
        return found + [size for part in self.pool.map(_sizes, chunks) for size in part]

    def is_slow(self) -> bool:
        """Whether the file system was asked often enough to know that it answers slowly."""
        return len(self.probes) >= PROBES and sorted(self.probes)[PROBES // 2] > SLOW

    def note(self, name: str, texts: list[str], sizes: Sequence[int]) -> None:
        """Enter the files of a folder: name, NUL, size, and what stands behind the size of some."""
        texts.sort()
        text = "\0".join(texts)
        if not text.isascii():  # one order in every locale: that of the bytes
            text = "\0".join(sorted(texts, key=os.fsencode))
        if texts:
            self.folders[name] = f"{self.folders.get(name, '')}{text}\0"
            self.files, self.bytes = self.files + len(texts), self.bytes + sum(sizes) - GONE * sizes.count(GONE)


class _Ends(dict[str, bool]):
    """Whether a name that ends so is an image's: few ends are shared by many names, and no extension is longer."""

    def __missing__(self, end: str) -> bool:
        found = self[end] = end.lower().endswith(SUFFIXES)
        return found


@contextmanager
def _opened(path: str) -> Iterator[list[Entry]]:
    """The entries of a folder, asked through its descriptor: the kernel need not walk the path for every file."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(number) as found:
            yield list(found)
    finally:
        os.close(number)


def _sizes(entries: Sequence[Entry]) -> list[int]:
    try:
        return [entry.stat().st_size for entry in entries]
    except FileNotFoundError:  # a link that leads nowhere
        return [_size(entry) for entry in entries]


def _size(entry: Entry) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return GONE


def _size_at(folder: str, name: str) -> int:
    try:
        return Path(folder, name).stat().st_size
    except FileNotFoundError:
        return GONE


def _hidden(name: str) -> bool:
    return name[0] == "." or name == MACOS


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
