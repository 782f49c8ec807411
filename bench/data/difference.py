"""What differs between the listing of a data set that a result was made with and the one of now, in words."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench.data.listing import GONE, Listing
from bench.data.names import portable
from bench.errors import BenchError
from bench.files import atomic_path
from bench.wording import printable


def keep(listing: Listing, file: Path) -> None:
    """Write a listing where that is possible; it serves the wording of a later comparison alone."""
    with suppress(OSError):
        if file.exists():
            return
    body = {
        "files": listing.files,
        "bytes": listing.bytes,
        "folders": {portable(a): portable(b) for a, b in listing.folders.items()},
    }
    with suppress(OSError, BenchError), atomic_path(file, durable=False) as temporary:
        temporary.write_bytes(zlib.compress(json.dumps(body).encode(), level=1))


def kept(file: Path) -> Listing | None:
    """A listing that was kept; None when it is not there or damaged."""
    try:
        body = json.loads(zlib.decompress(file.read_bytes()))
        return Listing(dict(body["folders"]), int(body["files"]), int(body["bytes"]))
    except (OSError, zlib.error, ValueError, KeyError, TypeError):
        return None


def difference(then: Listing, now: Listing) -> str:
    """As "3 files differ, e.g. train/n01/x.JPEG: 1,204 bytes then, 1,305 now"."""
    counts = {"other": 0, "gone": 0, "new": 0}
    examples: dict[str, str] = {}
    for what, example in _differences(then, now):
        counts[what] += 1
        examples.setdefault(what, example)
    total = sum(counts.values())
    parts = " and ".join(f"{counts[what]:,} {what}" for what in ("gone", "new") if 0 < counts[what] < total)
    which = f" (of them {parts})" if parts else ""
    example = next((examples[what] for what in counts if what in examples), "")
    return f"{total:,} {'file differs' if total == 1 else 'files differ'}{which}, e.g. {printable(example)}"


def _differences(then: Listing, now: Listing) -> Iterator[tuple[str, str]]:
    here = {portable(name): portable(text) for name, text in now.folders.items()}
    for folder in sorted(then.folders.keys() | here.keys()):
        before, after = then.folders.get(folder, ""), here.get(folder, "")
        if before == after:
            continue
        old, new = _files(before), _files(after)
        for name in sorted(old.keys() | new.keys()):
            was, is_ = old.get(name), new.get(name)
            path = f"{folder}/{name}" if folder else name
            if was is None:
                yield "new", f"{path}: not there then, {_bytes(is_)} now"
            elif is_ is None:
                yield "gone", f"{path}: {_bytes(was)} then, gone now"
            elif _bytes(was) == _bytes(is_) and was != is_:
                yield "other", f"{path}: other content, {_bytes(is_)} as before"
            elif was != is_:
                yield "other", f"{path}: {_bytes(was)} then, {_bytes(is_)} now"


def _files(text: str) -> dict[str, str]:
    parts = text.split("\0")
    return dict(zip(parts[::2], parts[1::2], strict=False))


def _bytes(size: str | None) -> str:
    number = (size or "").partition(":")[0]
    return "a link to nothing" if number == str(GONE) else f"{int(number or 0):,} bytes"
