"""The executors by name."""

from __future__ import annotations

from bench.errors import unknown_name
from bench.execution.protocol import Executor
from bench.settings.site import Site

NAMES = ("inline", "local", "slurm")


def default_slots(site: Site) -> int:
    """Jobs side by side on this machine when bench.toml does not say: one a GPU, else one a core."""
    from bench.execution.local.slots import slot_names

    return len(slot_names(site))


def forked(site: Site) -> frozenset[str]:
    """Kinds of job whose workers start in milliseconds on this machine, for what jobs will take."""
    from bench.execution.local import gpus
    from bench.execution.local.slots import forks

    devices = gpus.visible()
    return frozenset(kind for kind in ("pretrain", "evaluate", "cpu") if forks(site.resources(kind), devices))


def make(name: str, site: Site) -> Executor:
    """Raises BenchError with the valid names."""
    if name == "inline":
        from bench.execution.inline import InlineExecutor

        return InlineExecutor()
    if name == "local":
        from bench.execution.local.slots import LocalExecutor

        return LocalExecutor(site)
    # slurm takes whole graphs: bench/commands/driver.py
    raise unknown_name("executor that runs jobs one by one", name, ("inline", "local"))
