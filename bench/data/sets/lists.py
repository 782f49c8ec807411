"""Which labels few-label protocols may use: SimCLR's published lists for ImageNet, a seeded share elsewhere.

The 1 % and 10 % of ImageNet that all papers report on are two files of the SimCLR code (google-research/simclr,
imagenet_subsets/), one file name a line. Their sizes and sha256 are those that TensorFlow Datasets records for these
addresses (tensorflow_datasets/url_checksums/imagenet2012_subset.txt). `bench data fetch imagenet-1pct` gets one; a copy
is found through `imagenet-1pct = "/path/1percent.txt"` under [data] of bench.toml.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data.location import fetch_folder
from bench.errors import BenchError
from bench.settings.site import Site

if TYPE_CHECKING:
    pass

LINE = re.compile(r"n\d{8}_\d+\.JPEG")


@dataclass(frozen=True)
class Published:
    """A list that somebody published: `counts` says how many classes have how many images."""

    data: str  # data set
    fraction: float
    file: str
    url: str
    sha256: str
    counts: Mapping[int, int]  # images a class -> classes

    @property
    def images(self) -> int:
        """Lines of the list."""
        return sum(each * classes for each, classes in self.counts.items())


_SIMCLR = "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets/"

PUBLISHED: Mapping[str, Published] = {
    "imagenet-1pct": Published(
        data="imagenet",
        fraction=0.01,
        file="1percent.txt",
        url=_SIMCLR + "1percent.txt",
        sha256="71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
        counts={13: 811, 12: 189},
    ),
    "imagenet-10pct": Published(
        data="imagenet",
        fraction=0.1,
        file="10percent.txt",
        url=_SIMCLR + "10percent.txt",
        sha256="6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091",
        counts={128: 884, 129: 116},
    ),
}


def list_file(name: str, site: Site) -> Path:
    """Where a list is here. Raises BenchError when there is none."""
    place = fetch_folder(name, site)
    file = place / PUBLISHED[name].file if place.is_dir() else place
    if not file.is_file():
        known = PUBLISHED[name]
        raise BenchError(
            f"{known.fraction:.0%} of {known.data}'s labels means SimCLR's published list, which is not at {file}: "
            f'`bench data fetch {name}` gets it, or add `{name} = "/path/{known.file}"` under [data] in bench.toml.'
        )
    return file


def read_list(name: str, file: Path) -> list[str]:
    """The file names of a published list. Raises BenchError that says what is wrong with another file."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BenchError(f"{file} cannot be read: {error.strerror}.") from error
    return parse_list(name, content, str(file))


def parse_list(name: str, content: bytes, where: str) -> list[str]:
    """As `read_list`, of bytes that came from `where`."""
    known = PUBLISHED[name]
    lines = content.decode("utf-8", "replace").split()
    found = sha256(content).hexdigest()
    if found == known.sha256:
        return lines
    odd = next((number for number, line in enumerate(lines, 1) if not LINE.fullmatch(line)), None)
    counts = Counter(Counter(line.partition("_")[0] for line in lines).values())
    if odd is not None:
        what = f"line {odd} is {lines[odd - 1][:60]!r}, expected a file name like n01440764_10026.JPEG"
    elif len(lines) != known.images:
        what = f"it has {len(lines):,} lines, expected {known.images:,}"
    elif len(set(lines)) != len(lines):
        what = f"{Counter(lines).most_common(1)[0][0]} stands in it twice"
    elif counts != known.counts:
        what = f"images a class are {_counted(counts)}, expected {_counted(known.counts)}"
    else:
        what = f"its sha256 is {found}, expected {known.sha256} (the order of the lines and their ends count)"
    raise BenchError(f"{where} is not SimCLR's published list {name}: {what}. `bench data fetch {name}` gets it.")


def _counted(counts: Mapping[int, int]) -> str:
    """The three commonest, as "811 classes with 13"."""
    return ", ".join(
        f"{classes} classes with {each}" for each, classes in sorted(counts.items(), key=lambda item: -item[1])[:3]
    )
