"""The feature cache from outside: how its entries are called, and which of them an evaluation reads. Imports no torch.

Who fills the cache is evals/parts/features.py. An evaluation's module says in FEATURES which splits it reads of it:
with them there it needs no pass over the backbone. Without FEATURES nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bench import plugins
from bench.identity import digest
from bench.spec import CENTRE, Crop, Data, Evaluate

VERSION = 2  # raised when the transform or the precision of extraction changes


def entry_name(key: str, data: Data, split: str, crop: Crop, fingerprint: str = "", version: int = VERSION) -> str:
    """Folder of a cache entry. Only what changes the features is in it: not the evaluation, not its seed.

    `key` is that of the subject: the encoder's digest, "-", and a digest of the weights without "-". `fingerprint` is
    what bench/data/fingerprint.py has of the images, "" when nobody looked.
    """
    cut = "" if crop == CENTRE else f"-{digest(crop)[:8]}"
    return f"{key}-{data.name}-{data.size}{cut}-{split}-v{version}{fingerprint and '-'}{fingerprint}"


def entries_of(spec: Evaluate, splits: Iterable[str], fingerprint: str = "") -> list[str]:
    """Names of the entries for these splits, keyed by the encoder's digest alone: its weights may not be there yet."""
    crop = plugins.evaluation_of(spec.protocol).crop(spec.protocol)
    return [entry_name(digest(spec.encoder), spec.data, split, crop, fingerprint) for split in splits]


def all_cached(spec: Evaluate, key: str, folder: Path, fingerprint: str = "") -> bool | None:
    """Whether an evaluation of the subject with this key finds all that it reads; None when it says of nothing."""
    evaluation = plugins.evaluation_of(spec.protocol)
    if not evaluation.features:
        return None
    crop = evaluation.crop(spec.protocol)
    names = [entry_name(key, spec.data, split, crop, fingerprint) for split in evaluation.features]
    return all((folder / name).is_dir() for name in names)


def cached_entries(folder: Path) -> set[str]:
    """Names of what is cached, as `entries_of` has them: without the digest of the weights."""
    named = [path.name.split("-", 2) for path in folder.glob("*-*-*")]
    return {f"{encoder}-{rest}" for encoder, _, rest in named}


def counted(specs: Iterable[Evaluate], folder: Path, fingerprint: Callable[[str], str]) -> tuple[int, int]:
    """How many evaluations find all their features in the cache, and how many look there at all.

    `fingerprint` has that of a data set by name; it is asked only where there is a cache.
    """
    here = cached_entries(folder)
    readers = [(spec, splits) for spec in specs if (splits := plugins.evaluation_of(spec.protocol).features)]
    found = sum(
        here.issuperset(entries_of(spec, splits, fingerprint(spec.data.name))) for spec, splits in readers if here
    )
    return found, len(readers)
