"""The canonical form of a spec, the job id made from it, and the way back from JSON to the dataclass.

The id is the sha256 of the whole spec, defaults included, so that a changed default is a new job. A field that is
added later carries `metadata={"omit_when": value}`, the value that acts as before, and old ids survive. The commit
is provenance, not identity: who changes the numbers of a module raises `VERSION` there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from hashlib import sha256

from bench.errors import BenchError
from bench.files import Json
from bench.plugins import resolve

# Classes whose name stands in ids and in files on disk, by where they live today. A class that moves is entered here,
# and no id changes.
MOVED = {"evals.detection.recipes:Narrow": "evals._detection_recipes:Narrow"}
_FORMER = {former: name for name, former in MOVED.items()}


def canonical(value: object) -> Json:
    """Plain JSON data of everything that can change the outcome. Raises TypeError for what cannot be hashed."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return int(value) if value.is_integer() else value  # lr=1 is lr=1.0
        case tuple():
            return [canonical(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {"is": _class_name(type(value))} | {name: canonical(own) for name, own in _taking_part(value)}
    raise TypeError(f"{value!r} cannot take part in a job id: use None, bool, int, float, str, tuple or a dataclass")


def to_json(value: object) -> str:
    """The canonical form as text: sorted keys, no spaces. Raises TypeError for what cannot be hashed."""
    return _text(value)[0]


def _text(value: object) -> tuple[str, bool]:
    """The text, and whether it is that of the object for ever, as of frozen dataclasses all the way down.

    A plan asks for the texts of thousands of specs that share their parts, encoders above all: each part is written
    once.
    """
    if isinstance(value, tuple):
        items = [_text(item) for item in value]
        return f"[{','.join(text for text, _ in items)}]", all(lasting for _, lasting in items)
    if not is_dataclass(value) or isinstance(value, type):
        return json.dumps(canonical(value)), True
    known = _TEXTS.get(id(value))
    if known is not None:
        return known[1], True
    parts = {name: _text(own) for name, own in _taking_part(value)}
    written = {"is": json.dumps(_class_name(type(value)))} | {name: text for name, (text, _) in parts.items()}
    text = "{" + ",".join(f"{json.dumps(name)}:{written[name]}" for name in sorted(written)) + "}"
    lasting = _is_frozen(type(value)) and all(lasting for _, lasting in parts.values())
    if lasting:
        if len(_TEXTS) >= _TEXTS_KEPT:
            _TEXTS.clear()
        _TEXTS[id(value)] = value, text
    return text, lasting


# Texts by identity: equal objects may differ in their text (True == 1). Beside its text each object is held, so that no
# other gets its id.
_TEXTS: dict[int, tuple[object, str]] = {}
_TEXTS_KEPT = 30_000  # below 100 MB with whole specs of 3 kB


def _taking_part(value: object) -> Iterator[tuple[str, object]]:
    """Fields of a dataclass that are identity and do not act as if they were not there."""
    cls: type = type(value)
    for name, absent in _fields(cls):
        own = getattr(value, name)
        if own != absent:
            yield name, own


@cache
def _fields(cls: type) -> tuple[tuple[str, object], ...]:
    """Names of the fields that can take part, each with the value at which it is left out."""
    return tuple(
        (f.name, f.metadata.get("omit_when", MISSING)) for f in fields(cls) if f.metadata.get("identity", True)
    )


@cache
def _class_name(cls: type) -> str:
    """As ids and files know the class."""
    name = f"{cls.__module__}:{cls.__qualname__}"
    return MOVED.get(name, name)


@cache
def _is_frozen(cls: type) -> bool:
    """Whether assigning to a field is refused."""
    return bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def job_id(spec: object) -> str:
    """`pretrain-1f3a...` or `evaluate-...`: kind and the first 16 hex digits of the sha256 of the canonical form."""
    return f"{type(spec).__name__.lower()}-{digest(spec)}"


def digest(value: object) -> str:
    """The first 16 hex digits of the sha256 of the canonical form."""
    return sha256(to_json(value).encode()).hexdigest()[:16]


def from_json(data: Json) -> object:
    """Rebuild a spec from its canonical form.

    Raises BenchError when the form names a class that does not exist (any more), lies outside the project's
    packages, or has other fields or another VERSION than the class has today.
    """
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    name = data.get("is")
    if not isinstance(name, str):
        raise BenchError(f"expected a spec with the key 'is', found keys {sorted(data)}.")
    cls = resolve(_FORMER.get(name, name))
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise BenchError(f"{name} is not a dataclass: this spec was written by another version of the project.")
    body = {key: from_json(item) for key, item in data.items() if key != "is"}
    try:
        made = cls(**{f.name: body.pop(f.name) for f in fields(cls) if f.init and f.name in body})
    except TypeError as error:
        raise BenchError(f"{name} does not accept this spec ({error}): it was written by another version.") from error
    for key, item in body.items():  # VERSION and the like: fixed by the class
        if getattr(made, key, MISSING) != item:
            raise BenchError(
                f"{name}.{key} is {getattr(made, key, 'gone')} here and {item} in the spec: run the table anew."
            )
    return made
