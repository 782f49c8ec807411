"""How many processes decode images for a process of a job, and whether its cores suffice, in words."""

from __future__ import annotations

from dataclasses import dataclass

from bench.settings.site import Site
from bench.wording import counted


@dataclass(frozen=True)
class Decoding:
    """What decodes images on disk, and what to do where that is too much or too little for the cores."""

    text: str
    advice: str = ""

    def line(self) -> str:
        """As in a job's log."""
        return f"warning: {self.text}: {self.advice}" if self.advice else self.text


def decoding(site: Site, device: str, cores: int, whose: str = "this process has") -> Decoding:
    """For a process with so many cores on a "cuda" or "cpu" device."""
    workers, own = site.loader_workers(device, cores), counted(cores, "core")
    by = f"images on disk are decoded by {counted(workers, 'worker') if workers else 'the job itself'}, {whose} {own}"
    if site.workers is not None and workers > cores:
        fitting = counted(max(1, cores - 1), "worker")
        return Decoding(
            f"{by} ([local] workers)",
            f"they take turns; ask for more cores (cpus under [slurm]), or leave [local] workers out, for {fitting}",
        )
    if site.workers is None and workers and cores == 1:
        return Decoding(by, "it and the job share that core; ask for more (cpus under [slurm])")
    return Decoding(by)
