"""The authors' released weights (bench/authors.py has the list): finding a file here, or getting it. Imports no torch.

A file is where `[released]` of bench.toml says, or under `runs/released/`, where `bench run --released` puts what it
may download. No author publishes a hash of the whole file (torchvision writes its beginning into the file name), so
the sha256 is taken here, is part of the job's identity, stands in the result, and can be pinned in bench.toml.

    runs/released/<name>.pth       a downloaded file
    runs/released/<sha256>.json    where the file with this hash is, for the worker, and what the file system says of
                                   it, so that a plan does not hash gigabytes again
"""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path

from bench.authors import weights
from bench.errors import BenchError, InputCorrupt, one_line
from bench.files import Json, atomic_path, file_sha256, make_folder, read_json, write_json
from bench.settings.site import KnownFile, Site

OWN = "file"  # the name of a checkpoint of one's own in a spec
TIMEOUT = 60.0  # seconds without an answer
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Located:
    """A file that is here."""

    path: Path
    sha256: str


def folder_of(runs: Path) -> Path:
    """Where downloads and the notes on hashes are kept, under the site's folder of runs."""
    return runs / "released"


def locate(name: str, site: Site) -> Located:
    """The file of a catalogue entry, which must be here.

    Raises BenchError that says how to get it, or that it is another file.
    """
    entry = weights(name)
    place = site.released.get(name, KnownFile())
    toml = site.file or site.root / "bench.toml"
    if place.path is not None:
        path = place.path
        if not _is_here(path):
            raise BenchError(f"released weights {name!r}: {path} (from {toml}) is not there.")
    else:
        path = downloaded(name, site)
        if not path.is_file():
            if entry.url:
                raise BenchError(
                    f"released weights {name!r} are not here yet: `bench run --released` downloads {entry.url}."
                )
            raise BenchError(
                f"released weights {name!r} must be downloaded by hand from {entry.by_hand}; then add `{name} = "
                f'"/path"` under [released] in {toml}.'
            )
    digest = register(path, folder_of(site.runs))
    _check_hash(name, path, digest, place.sha256 or entry.sha256)
    return Located(path, digest)


def fetch(name: str, site: Site) -> Located:
    """As `locate`, but downloads what has an address. Raises BenchError when that fails; nothing half-done is left."""
    target = downloaded(name, site)
    entry = weights(name)
    place = site.released.get(name, KnownFile())
    if place.path is None and entry.url and not target.is_file():
        print(f"released weights {name}: downloading {entry.url}", flush=True)
        with atomic_path(target) as temporary:
            digest = _download(name, entry.url, temporary)
            _check_hash(name, Path(entry.url), digest, place.sha256 or entry.sha256)
        print(f"released weights {name}: {target.stat().st_size / 1e6:.0f} MB, sha256 {digest}", flush=True)
    return locate(name, site)


def downloaded(name: str, site: Site) -> Path:
    """Where a download of this entry is kept."""
    return folder_of(site.runs) / f"{name}{Path(weights(name).url).suffix or '.pth'}"


def register(path: Path, folder: Path, *, read: bool = False) -> str:
    """The sha256 of a weights file, noted in `folder` so that a worker finds the file by it.

    With `read` the file is hashed whatever the notes say, else only where the file system knows of a change.
    """
    files = parts(path)
    body = {"path": str(path.resolve()), "stamp": [_stamp(file) for file in files]}
    for note in () if read else sorted(folder.glob("[!.]*.json")):
        try:
            if read_json(note) == body:
                return note.stem
        except (InputCorrupt, FileNotFoundError):
            continue
    digest = file_sha256(*files)
    make_folder(folder)
    write_json(folder / f"{digest}.json", body)
    return digest


def _stamp(file: Path) -> list[Json]:
    """What changes with the content: size and time alone survive `tar x`, `cp -p` and rsync of another file."""
    found = file.stat()
    return [file.name, found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]


def find(digest: str, folder: Path) -> Path:
    """The file with this sha256, read in full to be sure. Raises BenchError when it is gone or has changed."""
    try:
        path = Path(str(read_json(folder / f"{digest}.json")["path"]))
    except (FileNotFoundError, InputCorrupt, KeyError) as error:
        raise BenchError(
            f"no weights file with sha256 {digest[:12]} is known here: run the same command again."
        ) from error
    if not _is_here(path):
        raise BenchError(f"{path} is gone: put the weights back, or run the command again with their new place.")
    if file_sha256(*parts(path)) != digest:
        write_json(folder / f"{digest}.json", {"path": str(path), "stamp": []})  # no plan takes it for this file again
        raise BenchError(
            f"{path} has changed since this job was planned (sha256 was {digest[:12]}): run the same command again."
        )
    return path


def parts(path: Path) -> list[Path]:
    """The files that a checkpoint consists of: one, or a TensorFlow index and its data files.

    Raises BenchError for a folder.
    """
    if path.is_dir():
        raise BenchError(
            f"{path} is a folder, expected a checkpoint file (of a TensorFlow checkpoint, the one that ends in .index)."
        )
    if not path.exists() and tensorflow_index(path).is_file():
        path = tensorflow_index(path)
    if path.suffix != ".index":
        return [path]
    return [path, *sorted(path.parent.glob(f"{path.stem}.data-*-of-*"))]


def tensorflow_index(path: Path) -> Path:
    """`model.ckpt-7` -> `model.ckpt-7.index`: TensorFlow names a checkpoint by the common beginning of its files."""
    return path if path.suffix == ".index" else path.with_name(f"{path.name}.index")


def _is_here(path: Path) -> bool:
    return path.is_file() or tensorflow_index(path).is_file()


def _check_hash(name: str, path: Path, digest: str, expected: str) -> None:
    if not digest.startswith(expected):
        raise BenchError(
            f"released weights {name!r}: {path} has sha256 {digest}, expected "
            f"{expected}{'' if len(expected) == 64 else '...'}: "
            "a damaged or another file. Get it again, or correct the pin in bench.toml."
        )


def _download(name: str, url: str, target: Path) -> str:
    """Stream `url` into `target`; returns the sha256."""
    digest, size = sha256(), 0
    advice = f'Or get it by hand and add `{name} = "/path"` under [released] in bench.toml.'
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, target.open("wb") as file:
            if "text/html" in answer.headers.get("Content-Type", ""):
                raise BenchError(f"released weights {name!r}: {url} answers with a web page, not a file. {advice}")
            expected = answer.headers.get("Content-Length")
            while chunk := answer.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an open answer as well
        raise BenchError(
            f"released weights {name!r}: {url} cannot be downloaded ({one_line(error)}). {advice}"
        ) from error
    if expected is not None and size != int(expected):
        raise BenchError(
            f"released weights {name!r}: {url} broke off after {size} of {expected} bytes: run the same command again."
        )
    return digest.hexdigest()
