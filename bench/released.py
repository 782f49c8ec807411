"""The authors' released weights: what there is, where each file comes from, and finding it here. Imports no torch.

A file is where `[released]` of bench.toml says, or under `runs/released/`, where `bench run --released` puts what it
may download. No author publishes a hash of the whole file (torchvision writes its beginning into the file name), so
the sha256 is taken here, is part of the job's identity, stands in the result, and can be pinned in bench.toml.

    runs/released/<name>.pth       a downloaded file
    runs/released/<sha256>.json    where the file with this hash is, for the worker, and its size and time of change,
                                   so that a plan does not hash gigabytes again
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, InputCorrupt, one_line, unknown_name
from bench.files import atomic_path, make_folder, read_json, write_json
from bench.spec import Backbone

if TYPE_CHECKING:
    from bench.site import Site

OWN = "file"  # the name of a checkpoint of one's own in a spec
TIMEOUT = 60.0  # seconds without an answer
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published file."""

    paper: str
    backbone: Backbone
    url: str = ""  # of the file itself; "" where only a browser or a tool of the host gets it
    by_hand: str = ""  # then: where it is
    sha256: str = ""  # its beginning, as far as it is published
    top1: float | None = None  # linear evaluation on ImageNet, percent, as the authors' page says beside the link
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What bench.toml says about one file."""

    path: Path | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Located:
    """A file that is here."""

    path: Path
    sha256: str


def _resnet(width: int = 1, name: str = "resnet50") -> Backbone:
    return Backbone(name=name, width=width, normalize="imagenet")


def _tensorflow(width: int = 1) -> Backbone:
    # Images stay in [0, 1]: data_util.py of google-research/simclr and /fnc subtracts no mean.
    return Backbone(name="resnet50", width=width, padding="tensorflow")


def _drive(file: str) -> str:
    return f"https://drive.google.com/file/d/{file}/view"


def _simclr(width: int, top1: float) -> Weights:
    # The README links to storage.cloud.google.com, which asks for a Google account; this is the same object's public address.
    url = f"https://storage.googleapis.com/simclr-gcs/checkpoints/ResNet50_{width}x.zip"
    return Weights(paper="SimCLR (arXiv:2002.05709)", backbone=_tensorflow(width), url=url, top1=top1, note="with an ImageNet head; TensorFlow")


_BARLOW, _BARLOW_URL = "Barlow Twins (arXiv:2103.03230)", "https://dl.fbaipublicfiles.com/barlowtwins/ljng"
_VICREG, _VICREG_URL = "VICReg (arXiv:2105.04906)", "https://dl.fbaipublicfiles.com/vicreg"
_TWIST = "TWIST (arXiv:2110.07402)"
_TRIPLET = "Truncated triplet loss (Solving Inefficiency of Self-supervised Representation Learning, arXiv:2104.08760)"
_FULL = "with the projector"

# Links and accuracies: the READMEs of the authors' repositories.
CATALOGUE: Mapping[str, Weights] = {
    "barlow_twins": Weights(paper=_BARLOW, backbone=_resnet(), url=f"{_BARLOW_URL}/resnet50.pth", top1=73.5),
    "barlow_twins_full": Weights(paper=_BARLOW, backbone=_resnet(), url=f"{_BARLOW_URL}/checkpoint.pth", top1=73.5, note=_FULL),
    "vicreg": Weights(paper=_VICREG, backbone=_resnet(), url=f"{_VICREG_URL}/resnet50.pth", top1=73.2),
    "vicreg_full": Weights(paper=_VICREG, backbone=_resnet(), url=f"{_VICREG_URL}/resnet50_fullckpt.pth", top1=73.2, note=_FULL),
    "vicreg_x2": Weights(paper=_VICREG, backbone=_resnet(2), url=f"{_VICREG_URL}/resnet50x2.pth", top1=75.5),
    "vicreg_x2_full": Weights(paper=_VICREG, backbone=_resnet(2), url=f"{_VICREG_URL}/resnet50x2_fullckpt.pth", top1=75.5, note=_FULL),
    "vicreg_resnet200_x2": Weights(paper=_VICREG, backbone=_resnet(2, "resnet200"), url=f"{_VICREG_URL}/resnet200x2.pth", top1=77.3),
    "vicreg_resnet200_x2_full": Weights(
        paper=_VICREG, backbone=_resnet(2, "resnet200"), url=f"{_VICREG_URL}/resnet200x2_fullckpt.pth", top1=77.3, note=_FULL
    ),
    "twist": Weights(paper=_TWIST, backbone=_resnet(), by_hand=_drive("1tiLZmsTPJWZ_Et25WRYPYC9f-BDYceNC"), top1=75.5, note="850 epochs"),
    "twist_full": Weights(paper=_TWIST, backbone=_resnet(), by_hand=_drive("1vD4Nm87eH9Fj9ac95X0auqokWZnep3dZ"), top1=75.5, note=_FULL),
    "twist_x2": Weights(paper=_TWIST, backbone=_resnet(2), by_hand=_drive("1abIQMzRZCi3kAqygEQuX3f4_e8pATWhY"), top1=77.7, note="250 epochs"),
    "twist_no_multicrop": Weights(
        paper=_TWIST, backbone=_resnet(), by_hand=_drive("17D4gXszqiUqcY4HUOtQLXUiXN5WijOaw"), top1=72.6, note="800 epochs, no self-labelling"
    ),
    "twist_clustering": Weights(
        paper=_TWIST, backbone=_resnet(), by_hand=_drive("1JowSAen3ldpJv9bHsCko_bsCKuXP4ban"), note="800 epochs; for unsupervised classification"
    ),
    "twist_deit_small": Weights(
        paper=_TWIST,
        backbone=Backbone(name="vit_small16", normalize="imagenet"),
        by_hand=_drive("1u6i6ZSCSZAI07Ls-qkG0hAzCEH_Rhk6r"),
        top1=76.3,
        note="300 epochs",
    ),
    "twist_vit_base": Weights(
        paper=_TWIST,
        backbone=Backbone(name="vit_base16", normalize="imagenet"),
        by_hand=_drive("15xjyr-g-tYYqBcPhSbhugLWZA06l_DM4"),
        top1=78.4,
        note="300 epochs",
    ),
    "directclr": Weights(
        paper="DirectCLR (arXiv:2110.09348)", backbone=_resnet(), by_hand=_drive("1m5z85gKPZqn9yk0h-qT3zo6XszxdvI3d"), top1=62.7, note="100 epochs"
    ),
    "truncated_triplet": Weights(
        paper=_TRIPLET, backbone=_resnet(), by_hand=_drive("19nO2IrT856-0N9BUyZlOrmwafYx-aHNe"), top1=75.9, note="longer run"
    ),
    "truncated_triplet_short": Weights(
        paper=_TRIPLET, backbone=_resnet(), by_hand=_drive("1ZKXgFIrnREuX94l8ARQF5ID9gTwleWjr"), top1=73.8, note="shorter run"
    ),
    "simclr_1x": _simclr(1, 69.1),
    "simclr_2x": _simclr(2, 74.2),
    "simclr_4x": _simclr(4, 76.6),
    "fnc": Weights(
        paper="FNC (arXiv:2011.11765)",
        backbone=_tensorflow(),
        by_hand="gs://fnc_checkpoints/ResNet-50/pretrained_linear_eval (a folder: `gsutil cp -r` gets it; name its .index file)",
        top1=74.4,
        note="with an ImageNet head; TensorFlow",
    ),
    "torchvision_supervised": Weights(
        paper="torchvision, ResNet50_Weights.IMAGENET1K_V1",
        backbone=_resnet(),
        url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        sha256="0676ba61",
        top1=76.13,
        note="supervised; the accuracy is that of its own head",
    ),
}


def weights(name: str) -> Weights:
    """Raises BenchError with the valid names."""
    if name not in CATALOGUE:
        raise unknown_name("released weights", name, CATALOGUE)
    return CATALOGUE[name]


def folder_of(runs: Path) -> Path:
    """Where downloads and the notes on hashes are kept, under the site's folder of runs."""
    return runs / "released"


def locate(name: str, site: Site) -> Located:
    """The file of a catalogue entry, which must be here. Raises BenchError that says how to get it, or that it is another file."""
    entry = weights(name)
    place = site.released.get(name, Place())
    toml = site.file or site.root / "bench.toml"
    if place.path is not None:
        path = place.path
        if not _is_here(path):
            raise BenchError(f"released weights {name!r}: {path} (from {toml}) is not there.")
    else:
        path = downloaded(name, site)
        if not path.is_file():
            if entry.url:
                raise BenchError(f"released weights {name!r} are not here yet: `bench run --released` downloads {entry.url}.")
            raise BenchError(
                f'released weights {name!r} must be downloaded by hand from {entry.by_hand}; then add `{name} = "/path"` under [released] in {toml}.'
            )
    digest = register(path, folder_of(site.runs))
    _check_hash(name, path, digest, place.sha256 or entry.sha256)
    return Located(path, digest)


def fetch(name: str, site: Site) -> Located:
    """As `locate`, but downloads what has an address. Raises BenchError when that fails; nothing half-done is left."""
    target = downloaded(name, site)
    entry = weights(name)
    place = site.released.get(name, Place())
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


def register(path: Path, folder: Path) -> str:
    """The sha256 of a weights file, noted in `folder` so that a worker finds the file by it."""
    files = parts(path)
    stamp = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    body = {"path": str(path.resolve()), "stamp": stamp}
    for note in sorted(folder.glob("*.json")):
        try:
            if read_json(note) == body:
                return note.stem
        except (InputCorrupt, FileNotFoundError):
            continue
    digest = file_sha256(path)
    make_folder(folder)
    write_json(folder / f"{digest}.json", body)
    return digest


def find(digest: str, folder: Path) -> Path:
    """The file with this sha256, read in full to be sure. Raises BenchError when it is gone or has changed."""
    try:
        path = Path(str(read_json(folder / f"{digest}.json")["path"]))
    except (FileNotFoundError, InputCorrupt, KeyError) as error:
        raise BenchError(f"no weights file with sha256 {digest[:12]} is known here: run the same command again.") from error
    if not _is_here(path):
        raise BenchError(f"{path} is gone: put the weights back, or run the command again with their new place.")
    if file_sha256(path) != digest:
        raise BenchError(f"{path} has changed since this job was planned (sha256 was {digest[:12]}): run the same command again.")
    return path


def parts(path: Path) -> list[Path]:
    """The files that a checkpoint consists of: one, or a TensorFlow index and its data files. Raises BenchError for a folder."""
    if path.is_dir():
        raise BenchError(f"{path} is a folder, expected a checkpoint file (of a TensorFlow checkpoint, the one that ends in .index).")
    if not path.exists() and tensorflow_index(path).is_file():
        path = tensorflow_index(path)
    if path.suffix != ".index":
        return [path]
    return [path, *sorted(path.parent.glob(f"{path.stem}.data-*-of-*"))]


def tensorflow_index(path: Path) -> Path:
    """`model.ckpt-7` -> `model.ckpt-7.index`: TensorFlow names a checkpoint by the common beginning of its files."""
    return path if path.suffix == ".index" else path.with_name(f"{path.name}.index")


def file_sha256(path: Path) -> str:
    """Hex digest of the file, or of a TensorFlow checkpoint's files one after another."""
    digest = sha256()
    for part in parts(path):
        with part.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _is_here(path: Path) -> bool:
    return path.is_file() or tensorflow_index(path).is_file()


def _check_hash(name: str, path: Path, digest: str, expected: str) -> None:
    if not digest.startswith(expected):
        raise BenchError(
            f"released weights {name!r}: {path} has sha256 {digest}, expected {expected}{'' if len(expected) == 64 else '...'}: "
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
        raise BenchError(f"released weights {name!r}: {url} cannot be downloaded ({one_line(error)}). {advice}") from error
    if expected is not None and size != int(expected):
        raise BenchError(f"released weights {name!r}: {url} broke off after {size} of {expected} bytes: run the same command again.")
    return digest.hexdigest()
