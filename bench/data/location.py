"""Where a data set lies here: the folder that bench.toml names, or where `bench data fetch` puts it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from bench.data import as_is
from bench.data.catalogue import entry
from bench.errors import BenchError
from bench.settings.site import Site


def fetch_folder(name: str, site: Site) -> Path:
    """Where a data set or a list belongs here: as bench.toml says, or `data/<name>` beside it."""
    return site.data.get(name, site.root / "data" / name)


def root_of(name: str, site: Site) -> Path:
    """The folder of a data set. Raises BenchError when it is not there."""
    folder = fetch_folder(name, site)
    if name not in site.data and folder.is_dir():
        return folder
    try:
        return site.data_root(name)
    except BenchError as error:
        raise BenchError(f"{error} {_sentence(entry(name).hint)}") from error


def check_present(name: str, site: Site) -> None:
    """Raises BenchError when a data set is not there; fast, opens no image."""
    found = entry(name)
    if found.package:
        if find_spec(found.package) is None:
            hint = found.hint or f"`pip install {found.package}`"
            raise BenchError(
                f"data set {name!r} is in the Python package {found.package}, which is not installed: {hint}."
            )
        return
    root = root_of(name, site)
    if as_is.is_pack(root):
        as_is.described(root, name)
        return
    missing = [[path for path in layout if not (root / path).exists()] for layout in found.layouts]
    if all(missing):
        # The layout of which most is there is the one that was meant.
        nearest = min(range(len(missing)), key=lambda i: len(missing[i]) / len(found.layouts[i]))
        raise BenchError(f"data set {name!r}: {root / missing[nearest][0]} is missing; {found.hint}.")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
