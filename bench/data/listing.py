"""The files that a data set's readers read: names, sizes, and of lists and annotations the content. Imports no torch.

Times and absolute paths are no part of it, so that a true copy elsewhere has the same listing. Every file is asked for
its size at every look: one that was overwritten in place leaves its folder's time as it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Literal

from bench.data.names import MACOS, SHARD, SUFFIXES
from bench.errors import BenchError, InputCorrupt
from bench.files import read_json, write_json

ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zip", ".7z", ".rar")  # what the images were unpacked from
LARGEST = 1 << 30  # bytes of a file that is read for its content; of a larger one the size has to do
PROBE = 200  # looks at a file after which it is known how fast they are
SLOW = 40e-6  # seconds a look: the file system is asked over a network, and many questions at once save the waiting
THREADS, CHUNK = 16, 64
SETTLED = 2.0  # seconds without a change after which a file's times tell of the next one
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


def look(root: Path, scopes: Sequence[Scope], contents: Contents) -> Listing:
    """The listing of a data set. Raises BenchError for a folder or a list that cannot be read."""
    with closing(_Walk(str(root), contents)) as walk:
        try:
            for scope in scopes:
                walk.add(scope)
        except OSError as error:
            raise BenchError(f"{error.filename or root} cannot be read ({error.strerror or error}).") from error
    return Listing(walk.folders, walk.files, walk.bytes)


class _Walk:
    """One look: what was found so far, and how fast the file system answers."""

    def __init__(self, root: str, contents: Contents) -> None:
        self.root, self.contents = root, contents
        self.folders: dict[str, str] = {}
        self.files = self.bytes = 0
        self.looks, self.seconds = 0, 0.0
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
            for name in classes:
                self.add_class(_join(scope.path, name), f"{path}/{name}")
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
            self.note(name, images, self.sizes(images))

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
            self.note(name, [*sized, *read], sizes, [""] * len(sized) + marks)
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
        if self.looks >= PROBE and self.seconds > SLOW * self.looks and len(entries) > 1:
            self.pool = self.pool or ThreadPoolExecutor(THREADS)
            chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
            return [size for part in self.pool.map(_sizes, chunks) for size in part]
        if self.looks >= PROBE:
            return _sizes(entries)
        begun = time.perf_counter()
        found = _sizes(entries)
        self.looks, self.seconds = self.looks + len(entries), self.seconds + time.perf_counter() - begun
        return found

    def note(self, name: str, entries: Sequence[Entry], sizes: Sequence[int], marks: Sequence[str] = ()) -> None:
        """Enter the files of a folder, with what stands behind the size of some."""
        texts = [f"{entry.name}\0{size}" for entry, size in zip(entries, sizes, strict=True)]
        if marks:
            texts = [text + mark for text, mark in zip(texts, marks, strict=True)]
        texts.sort()
        text = "\0".join(texts)
        if not text.isascii():  # one order in every locale: that of the bytes
            text = "\0".join(sorted(texts, key=os.fsencode))
        if texts:
            self.folders[name] = f"{self.folders.get(name, '')}{text}\0"
            self.files, self.bytes = self.files + len(texts), self.bytes + sum(sizes)


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


def _hidden(name: str) -> bool:
    return name[0] == "." or name == MACOS


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
