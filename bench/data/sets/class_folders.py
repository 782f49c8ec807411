"""Class folders: which files of a tree are its images, and what is left out, said in words."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.data.names import SUFFIXES, is_hidden
from bench.errors import BenchError


@dataclass
class LeftOut:
    """What was met in a tree or a list and is no image of the data set: numbers by kind, one example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """One more of a kind, named as in `sentences`."""
        self.counts[kind] += 1
        self.examples.setdefault(kind, example)

    def sentences(self) -> tuple[str, ...]:
        """As "4 files with other extensions are left out, e.g. Auk/notes.txt"."""
        return tuple(
            f"{count:,} {kind} {'is' if count == 1 else 'are'} left out, e.g. {self.examples[kind]}"
            for kind, count in self.counts.items()
        )


HIDDEN, OTHER, INSIDE, BESIDE = (
    "hidden or AppleDouble files",
    "files with other extensions",
    "folders or special files inside of class folders",
    "files beside the class folders",
)


@dataclass(frozen=True)
class Tree:
    """An ImageFolder-style tree in sorted order: paths, their labels, the names of the classes."""

    paths: Sequence[str]
    labels: Sequence[int]
    classes: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def scan_folder(folder: Path, names: tuple[str, ...] | None = None) -> Tree:
    """The images of `<folder>/<class>/`: what is not hidden and has an extension that Pillow reads.

    Raises BenchError when there is no class folder, a class is empty, the classes are not those of `names`, or a folder
    cannot be listed.
    """
    left_out = LeftOut()
    classes = tuple(_class_folders(folder, left_out))
    if not classes:
        loose = sum(entry.name.lower().endswith(SUFFIXES) for entry in entries(folder)) if folder.is_dir() else 0
        hint = f" Its {loose:,} images lie side by side: sort them into class folders." if loose else ""
        raise BenchError(f"{folder} has no class folders: expected {folder.name}/<class>/<image>.{hint}")
    if names is not None and classes != names:
        odd = sorted(set(classes) ^ set(names))
        raise BenchError(
            f"{folder} has other classes than the training folder: {len(odd)} differ, e.g. {', '.join(odd[:3])}."
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(_images(folder / name, left_out))
        if not images:
            rest = "; ".join(sentence for sentence in left_out.sentences() if f" {name}/" in sentence)
            raise BenchError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES[:4])} and what else Pillow reads)"
                f"{f': {rest}' if rest else ''}."
            )
        paths += [f"{folder}/{name}/{file}" for file in images]
        labels += [label] * len(images)
    return Tree(paths, labels, classes, left_out.sentences())


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder. Raises BenchError where it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise BenchError(f"{folder} cannot be listed ({error.strerror or error}).") from error


def _class_folders(folder: Path, left_out: LeftOut) -> list[str]:
    found = []
    for entry in entries(folder) if folder.is_dir() else ():
        if is_hidden(entry.name):
            continue
        try:
            is_folder = Path(entry.path).is_dir()
        except OSError as error:
            raise BenchError(f"{entry.path} cannot be read ({error.strerror or error}).") from error
        if is_folder:
            found.append(entry.name)
        elif entry.is_symlink() and not Path(entry.path).exists():  # left out, it would renumber the other classes
            raise BenchError(f"{entry.path} is a link to nothing: mount or mend what it should lead to, or remove it.")
        else:
            left_out.add(BESIDE, entry.name)
    return sorted(found)


def _images(folder: Path, left_out: LeftOut) -> Iterator[str]:
    for entry in entries(folder):
        name = entry.name
        if is_hidden(name):
            left_out.add(HIDDEN, f"{folder.name}/{name}")
        elif not (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
            left_out.add(INSIDE, f"{folder.name}/{name}")
        elif not name.lower().endswith(SUFFIXES):
            left_out.add(OTHER, f"{folder.name}/{name}")
        else:  # a link as well: where it leads to nothing, reading it is an error, instead of another data set
            yield name


def names_in(folder: Path) -> set[str]:
    """The names in a folder, none where there is no such folder. Raises BenchError where it cannot be listed."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (names, not a Path each)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        return set()
    except OSError as error:
        raise BenchError(f"{folder} cannot be listed ({error.strerror or error}).") from error


def without_hidden(names: Iterable[str], source: Path) -> tuple[list[bool], tuple[str, ...]]:
    """Which paths of a list count, and what is left out. Raises BenchError when none counts."""
    left_out, keep = LeftOut(), []
    for name in names:
        keep.append(not is_hidden(name))
        if not keep[-1]:
            left_out.add(HIDDEN, name)
    if not any(keep):
        raise BenchError(f"{source} names no image: all of its {len(keep):,} paths are hidden files.")
    return keep, left_out.sentences()
