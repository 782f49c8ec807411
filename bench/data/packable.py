"""Of which data sets `bench data pack --as-is` makes no pack, and why."""

from __future__ import annotations

from bench.data.catalogue import entry
from bench.data.sets.packed import PACKS


def why_not_packed(name: str) -> str:
    """In words, after "it cannot be packed: "; empty where it can."""
    known = entry(name)
    if known.package:
        return f"it is in the package {known.package}"
    if known.boxes:
        return "Detectron2 reads its files one by one"
    if known.in_memory:
        return "it is read into memory as a whole, from a few files"
    return "it is a pack already" if name in PACKS else ""
