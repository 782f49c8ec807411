"""`bench data fetch NAME`: what can be had without asking anybody.

Data sets are downloaded by torchvision, published lists by us.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.data.catalogue import CATALOGUE, entry
from bench.data.location import check_present, fetch_folder
from bench.data.sets import lists
from bench.errors import BenchError, one_line, unknown_name
from bench.files import atomic_path, make_folder
from bench.settings.site import Site

SECONDS = 60  # without an answer
LIMIT = 50_000_000  # bytes of a list, many times what they have


def fetch(name: str, site: Site) -> Path:
    """Download a data set or a list to its place; returns where it is. What is there already is left alone.

    Raises BenchError for what must be got by hand, and when the download fails.
    """
    if name in lists.PUBLISHED:
        return _fetch_list(name, site)
    if name not in CATALOGUE:
        raise unknown_name("data set or list", name, [*CATALOGUE, *lists.PUBLISHED])
    known = entry(name)
    if known.package:
        check_present(name, site)
        raise BenchError(
            f"data set {name!r} is in the Python package {known.package}, which is installed: there is nothing to "
            "fetch."
        )
    if not known.fetched:
        raise BenchError(
            f"data set {name!r} cannot be fetched for you: {known.hint}. "
            f'Then add `{name} = "/path"` under [data] in bench.toml; `bench data check {name}` looks it over.'
        )
    root = fetch_folder(name, site)
    make_folder(root)
    try:
        for kind, options in _torchvision(name):
            kind(str(root), download=True, **options)
    except Exception as error:  # torchvision raises RuntimeError, URLError, OSError, tarfile's errors
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an open answer as well
        raise BenchError(
            f"data set {name!r} could not be fetched to {root}: {one_line(error)[:300]}. The same command tries again."
        ) from error
    check_present(name, site)
    return root


def _torchvision(name: str) -> list[tuple[Callable[..., Any], Mapping[str, str]]]:
    """The classes of torchvision that download a data set, with their options."""
    from torchvision import datasets as d

    known: Mapping[str, list[tuple[Callable[..., Any], Mapping[str, str]]]] = {
        "cifar10": [(d.CIFAR10, {})],
        "cifar100": [(d.CIFAR100, {})],
        "stl10": [(d.STL10, {})],
        "stl10-unlabelled": [(d.STL10, {})],
        "voc2007": [
            (d.VOCDetection, {"year": "2007", "image_set": "trainval"}),
            (d.VOCDetection, {"year": "2007", "image_set": "test"}),
        ],
        "food101": [(d.Food101, {})],
        "aircraft": [(d.FGVCAircraft, {})],
        "dtd": [(d.DTD, {})],
        "pets": [(d.OxfordIIITPet, {})],
        "caltech101": [(d.Caltech101, {})],
        "flowers102": [(d.Flowers102, {})],
    }
    return known[name]


def _fetch_list(name: str, site: Site) -> Path:
    known = lists.PUBLISHED[name]
    place = fetch_folder(name, site)
    file = place if place.suffix == ".txt" or place.is_file() else place / known.file
    if file.is_file():
        try:
            lists.read_list(name, file)
        except BenchError as error:
            wrong = str(error).removesuffix(f" `bench data fetch {name}` gets it.")
            raise BenchError(
                f"{wrong} Delete it, or let `{name}` under [data] in bench.toml name another place; then fetch again."
            ) from error
        return file
    try:
        with urllib.request.urlopen(known.url, timeout=SECONDS) as answer:
            content: bytes = answer.read(LIMIT)
    except (urllib.error.URLError, OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an open answer as well
        raise BenchError(
            f"{known.url} could not be fetched ({one_line(error)}). Fetch it on another machine and add "
            f'`{name} = "/path/{known.file}"` under [data] in bench.toml.'
        ) from error
    lists.parse_list(name, content, known.url)
    with atomic_path(file) as temporary:
        temporary.write_bytes(content)
    return file
