"""Which evaluations one process may work on together, from one decoding of the images."""

from __future__ import annotations

from bench import plugins
from bench.data.catalogue import entry
from bench.identity import to_json
from bench.spec import Data, Evaluate, Spec

MOST = 8  # evaluations of one process that has a GPU of this machine, where bench.toml does not say


def together_as(spec: Spec) -> str:
    """Equal for evaluations that see the same batches; "" for a job that is worked on alone.

    Where images are in memory nothing is gained: a batch takes a small part of what a network does with it.
    """
    if not isinstance(spec, Evaluate) or not _from_files(spec.data):
        return ""
    evaluation = plugins.evaluation_of(spec.protocol)
    if evaluation.evaluate_in_steps is None or evaluation.uses_ranks:
        return ""
    return f"{to_json(spec.protocol)} {to_json(spec.data)} {spec.seed}"


def _from_files(data: Data) -> bool:
    """Images in memory have one size, the catalogue's: who asks for another reads files."""
    known = entry(data.name)
    return not known.package and data.size != known.pixels
