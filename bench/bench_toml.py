"""The place where the harness runs: `bench.toml`. Not hashed (but for [recipe]): another machine changes no job id.

    [paths]
    runs = "runs"               # run folders
    output = "results/out"      # CSV, Markdown, LaTeX
    report = "reports/out"      # HTML

    [data]
    imagenet = "/datasets/imagenet"   # a folder per split, a folder per class in it

    [released]
    simclr_1x = "/weights/ResNet50_1x.zip"   # an authors' file that is here already (methods/*.toml have the names)
    barlow_twins = { sha256 = "64 hex digits" }   # accept no other file than this; `path` may stand beside it

    [local]
    slots = 2                   # jobs side by side; default: one a core, or one a GPU
    threads = 1                 # OpenMP threads a job
    ranks = 1                   # processes a pretraining (GPUs on a GPU machine)
    images_per_gpu = 64         # of a pretraining, at least: each gets as many of the `ranks` as leave it so many and
                                # divide its batch. Without it all have `ranks`
    workers = 8                 # processes that decode images on disk for each rank, on Slurm too; default: for a GPU
                                # one less than the cores of the rank, at most 12, fewer where shared memory has
                                # no room for them; none (0) for a CPU.
                                # `bench doctor --throughput` says how many to use
    staging = "$SLURM_TMPDIR"   # a folder of each node's own disk: packs of images are copied there before they are
                                # read, on Slurm too. Variables have the value of the node; docs/cluster.md
    gpu_memory = 24             # GiB of one GPU, where the driver is not to be asked
    checkpoint_activations = "auto"   # or true or false: pretrainings compute their blocks' activations twice instead
                                # of keeping them: the same digits, a third of the memory, a third more work; on
                                # Slurm too. "auto": those that would not fit into a GPU otherwise
    deterministic = false       # faster kernels on GPUs, whose digits differ from run to run, on Slurm too; default:
                                # true. docs/gpus.md has the gain

    probes_together = 8         # linear probes that train on the same random views, in one process that decodes them
                                # once: at most; 1: none. Default: 8 on a GPU here, else none;
                                # docs/throughput.md

    [recipe]                    # what is changed in all recipes: bench/settings/overrides.py
    chunks = 4

    [slurm]                     # what jobs ask Slurm for: bench/settings/slurm.py
    partition = "gpu"

    [price]                     # what `bench plan` reckons with
    gpu_hour = 2.5
    core_hour = 0.02            # optional
    currency = "EUR"

    [notify]
    command = "echo $BENCH_MESSAGE | mail -s bench me"   # run once when all jobs of a submission to Slurm are over

Relative paths are relative to the folder of bench.toml, or to the working folder when there is none. In every path `~`
is the home folder and `$NAME` or `${NAME}` a variable of the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from bench.authors import catalogue, own_names
from bench.data.catalogue import CATALOGUE as DATA_SETS
from bench.data.sets.lists import PUBLISHED
from bench.errors import BenchError, unknown_name
from bench.plugins import names
from bench.settings.overrides import Overrides
from bench.settings.site import NAME, KnownFile, Price, Site
from bench.settings.slurm import read_slurm
from bench.spec import Precision

MOST_TOGETHER = 64  # of probes_together: the networks and heads of all are in memory
SWITCHES = ("checkpoint_activations", "deterministic")  # keys of [local] that are true or false
KEYS = {
    "paths": {"runs", "output", "report"},
    "local": {
        "slots",
        "threads",
        "ranks",
        "images_per_gpu",
        "gpu_memory",
        "workers",
        "staging",
        "probes_together",
        *SWITCHES,
    },
    "notify": {"command"},
    "price": {"gpu_hour", "core_hour", "currency"},
}
FREE = {"data", "recipe", "released", "slurm"}  # sections whose keys are not listed here
# Keys of [recipe].
OVERRIDES: Mapping[str, type] = {"chunks": int, "compile": bool, "exact_views": bool, "precision": str, "data": dict}
WORDS: Mapping[type, str] = {
    int: "a whole number of at least 1",
    bool: "true or false",
    str: " or ".join(f'"{name}"' for name in get_args(Precision)),
    dict: 'a table such as { imagenet = "imagenet-256" }',
}


def find_site(start: Path | None = None) -> Site:
    """The site of the nearest bench.toml at or above `start` (default: the working folder), or of none."""
    start = (start or Path.cwd()).resolve()
    named = os.environ.get("BENCH_SITE")
    if named and not Path(named).is_file():
        raise BenchError(f"BENCH_SITE names {named}, which is not a file.")
    file = Path(named) if named else next((f / NAME for f in (start, *start.parents) if (f / NAME).is_file()), None)
    return read_site(file) if file else _site(start, {})


def read_site(file: Path) -> Site:
    """Raises BenchError for invalid TOML, unknown keys and wrong types."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{file} is not valid TOML: {error}.") from error
    except OSError as error:
        raise BenchError(f"{file} cannot be read: {error.strerror}.") from error
    for section, body in data.items():
        if section not in {*KEYS, *FREE}:
            raise unknown_name(f"section in {file}", section, {*KEYS, *FREE})
        if not isinstance(body, dict):
            raise BenchError(f"{file}: {section} must be a section, [{section}].")
        if section not in ("recipe", "released", "slurm"):  # read by _overrides, _released and read_slurm
            _check_entries(file, section, body)
    if data.get("recipe", {}).get("compile") and data.get("local", {}).get("checkpoint_activations") is True:
        raise BenchError(
            f"{file}: recipe.compile and local.checkpoint_activations cannot both be true, as a compiled encoder "
            "chooses for itself what it keeps: leave one of them out."
        )
    return _site(file.resolve().parent, data, file.resolve())


def _check_entries(file: Path, section: str, body: Mapping[str, object]) -> None:
    known = {*DATA_SETS, *PUBLISHED} if section == "data" else KEYS[section]
    if section == "local" and "chunks" in body:
        raise BenchError(f"{file}: chunks stands under [recipe], not [local]: it changes numbers.")
    if section == "local" and "images_per_gpu" in body and "ranks" not in body:
        raise BenchError(f"{file}: local.images_per_gpu chooses among up to `ranks` GPUs: say how many, ranks = 8.")
    for key in body:
        if key not in known:
            raise unknown_name(
                f"{'data set or list' if section == 'data' else 'key'} in [{section}] of {file}", key, known
            )
    if section == "price":
        _check_price(file, body)
        return
    for key, value in body.items():
        wanted = int if section == "local" and key != "staging" else str
        if key == "workers" and type(value) is int and value == 0:
            continue
        if section == "local" and key in SWITCHES:
            automatic = key == "checkpoint_activations"
            if type(value) is not bool and not (automatic and value == "auto"):
                allowed = f'{WORDS[bool]}, or "auto"' if automatic else WORDS[bool]
                raise BenchError(f"{file}: local.{key} is {value!r}, expected {allowed}.")
            continue
        if type(value) is not wanted or value in (0, ""):
            expected = "positive number" if wanted is int else "line of shell" if section == "notify" else "path"
            raise BenchError(f"{file}: {section}.{key} is {value!r}, expected a {expected}.")
        if key == "probes_together" and isinstance(value, int) and value > MOST_TOGETHER:
            raise BenchError(f"{file}: local.{key} is {value}, expected at most {MOST_TOGETHER}.")
        if isinstance(value, int) and value < 1:
            raise BenchError(f"{file}: {section}.{key} is {value}, expected at least 1.")


def _check_price(file: Path, body: Mapping[str, object]) -> None:
    for key, value in body.items():
        if key == "currency":
            if not isinstance(value, str) or not value.strip() or "\n" in value:
                raise BenchError(f'{file}: price.currency is {value!r}, expected a short name in quotes, as "EUR".')
        elif type(value) not in (int, float) or not 0 < float(str(value)) < float("inf"):
            raise BenchError(f"{file}: price.{key} is {value!r}, expected a number above 0.")
    if body and not body.keys() & {"gpu_hour", "core_hour"}:
        raise BenchError(f"{file}: [price] says no price: give gpu_hour, core_hour, or both.")


def _released(root: Path, body: Mapping[str, object], file: Path | None) -> dict[str, KnownFile]:
    """Section [released]: `name = "path"` or `name = { path = "...", sha256 = "..." }`, either key."""
    found = {}
    for name, value in body.items():
        if name not in own_names() and name not in catalogue():
            raise unknown_name(f"weights under [released] of {file}", name, catalogue())
        entry = {"path": value} if isinstance(value, str) else value
        if not isinstance(entry, dict) or not entry or not all(isinstance(v, str) and v for v in entry.values()):
            raise BenchError(
                f'{file}: released.{name} is {value!r}, expected a path or {{ path = "...", sha256 = "..." }}.'
            )
        for key in entry:
            if key not in {"path", "sha256"}:
                raise unknown_name(f"key of released.{name} in {file}", key, {"path", "sha256"})
        pin = entry.get("sha256", "").lower()
        if pin and not (len(pin) == 64 and set(pin) <= set("0123456789abcdef")):
            raise BenchError(f"{file}: released.{name}.sha256 is {pin!r}, expected 64 hexadecimal digits.")
        path = _path(root, file, f"released.{name}", entry["path"]) if "path" in entry else None
        found[name] = KnownFile(path=path, sha256=pin)
    return found


def _site(root: Path, data: Mapping[str, Mapping[str, Any]], file: Path | None = None) -> Site:
    def path(key: str, default: str) -> Path:
        return _path(root, file, f"paths.{key}", str(data.get("paths", {}).get(key, default)))

    local = data.get("local", {})
    slots = local.get("slots")
    return Site(
        root=root,
        file=file,
        runs=path("runs", "runs"),
        output=path("output", "results/out"),
        report=path("report", "reports/out"),
        data={name: _path(root, file, f"data.{name}", str(folder)) for name, folder in data.get("data", {}).items()},
        released=_released(root, data.get("released", {}), file),
        slots=int(slots) if slots is not None else None,
        threads=int(local.get("threads", 1)),
        ranks=int(local.get("ranks", 1)),
        images_per_gpu=int(local.get("images_per_gpu", 0)),
        workers=int(local["workers"]) if "workers" in local else None,
        staging=str(local.get("staging", "")),
        gpu_memory=int(local.get("gpu_memory", 0)),
        checkpoint_activations=local.get("checkpoint_activations", "auto"),
        deterministic=bool(local.get("deterministic", True)),
        probes_together=int(local["probes_together"]) if "probes_together" in local else None,
        overrides=_overrides(str(file), data.get("recipe", {})),
        slurm=read_slurm(str(file), data.get("slurm", {})),
        price=Price(**data.get("price", {})),
        notify=str(data.get("notify", {}).get("command", "")),
    )


def _path(root: Path, file: Path | None, key: str, text: str) -> Path:
    """A path as bench.toml may write it. Raises BenchError when there is no home folder, or a variable is not set."""
    if "$" in text and (root / text).exists():  # it is part of a name
        return root / text
    expanded = os.path.expandvars(text)
    for unknown in re.finditer(r"\$(\w+|\{[^}]*\})", expanded, re.ASCII):
        raise BenchError(
            f"{file}: {key} is {text!r}, but there is no variable {unknown[1].strip('{}')} in the environment: set it, "
            "or write the whole path."
        )
    try:
        return root / Path(expanded).expanduser()
    except RuntimeError as error:
        own = expanded.partition("/")[0] == "~"
        whose = "HOME is not set and this user has none" if own else "this machine knows no such user"
        raise BenchError(
            f"{file}: {key} is {text!r}, but there is no home folder ({whose}): write the whole path."
        ) from error


def _overrides(file: str, body: Mapping[str, Any]) -> Overrides:
    """Raises BenchError for an unknown key, a wrong type, or a data set that cannot stand in for another."""
    named = body.get("chunks")
    if isinstance(named, dict):
        body = {key: value for key, value in body.items() if key != "chunks"}
    for key, value in body.items():
        if key not in OVERRIDES:
            raise unknown_name(f"key in [recipe] of {file}", key, OVERRIDES)
        wrong = type(value) is not OVERRIDES[key]  # a bool is an int for isinstance
        if wrong or (key == "chunks" and value < 1) or (key == "precision" and value not in get_args(Precision)):
            raise BenchError(f"{file}: recipe.{key} is {value!r}, expected {WORDS[OVERRIDES[key]]}.")
    for name, other in body.get("data", {}).items():
        _check_stand_in(file, name, other)
    chunks_of = _chunks(file, named) if isinstance(named, dict) else ()
    return Overrides(**{**body, "data": tuple(sorted(body.get("data", {}).items())), "chunks_of": chunks_of})


def _chunks(file: str, body: Mapping[str, object]) -> tuple[tuple[str, int], ...]:
    """Numbers of chunks by method, or by method and width as in "simclr 4x"."""
    found = {}
    for name, number in body.items():
        method, _, width = name.partition(" ")
        if method not in names("method"):
            raise unknown_name(f"method in recipe.chunks of {file}", method, names("method"))
        if " " in name and not re.fullmatch(r"[1-9]\d*x", width):
            raise BenchError(f'{file}: recipe.chunks has {name!r}, expected a method, or one and a width: "simclr 4x".')
        if type(number) is not int or number < 1:
            raise BenchError(f"{file}: recipe.chunks of {name} is {number!r}, expected {WORDS[int]}.")
        found[name] = number
    return tuple(sorted(found.items()))


def _check_stand_in(file: str, name: str, other: object) -> None:
    if not isinstance(other, str):
        raise BenchError(f"{file}: recipe.data.{name} is {other!r}, expected the name of a data set.")
    for found in (name, other):
        if found not in DATA_SETS:
            raise unknown_name(f"data set in recipe.data of {file}", found, DATA_SETS)
    here, there = DATA_SETS[name], DATA_SETS[other]
    if (here.classes, here.boxes) != (there.classes, there.boxes):
        raise BenchError(
            f"{file}: recipe.data puts {other} in the place of {name}, but it has {there.classes} classes instead of "
            f"{here.classes}: "
            "the numbers of one say nothing about the other."
        )
