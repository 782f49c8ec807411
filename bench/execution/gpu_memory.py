"""How much memory the GPUs have that jobs will run on: as bench.toml says, or as this machine's driver does."""

from __future__ import annotations

from math import isinf

from bench.costs.devices import Device
from bench.costs.fit import UNKNOWN, Memory
from bench.settings.site import Site
from bench.settings.slurm import KINDS


def memory_on(device: Device) -> Memory:
    """Of an imagined device; none of a CPU, whose jobs are not compared."""
    return UNKNOWN if isinf(device.memory_gib) else dict.fromkeys(("pretrain", "evaluate"), device.memory_gib)


def memory_of(site: Site, executor: str) -> Memory:
    """GiB by kind of job. Of Slurm's nodes only bench.toml knows them."""
    if executor == "slurm":
        requests = {kind: site.slurm.request(kind) for kind in KINDS}
        return {kind: request.gpu_memory for kind, request in requests.items() if request.gpus and request.gpu_memory}
    from bench.execution.local import gpus

    if not gpus.visible():
        return UNKNOWN
    there = site.gpu_memory or gpus.memory()
    return UNKNOWN if there is None else {"pretrain": there, "evaluate": there}
