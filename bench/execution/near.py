"""Before a job reads its data: each node copies a pack of them to its own disk, where bench.toml asks for it.

The first rank of a node copies. Meanwhile all ranks ask each other every second, so that none runs into a time-out
because another node's disk is slower, and all of them stop together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch

from bench import plugins
from bench.data.staging import staged
from bench.errors import Stopped
from bench.settings.site import Site
from bench.spec import Pretrain, Spec
from bench.training.ranks import Ranks, any_rank

SECONDS = 1.0  # between two questions


def near(spec: Spec, site: Site, ranks: Ranks, device: torch.device, should_stop: Callable[[], bool]) -> Site:
    """The site with the job's data where this node reads them fastest.

    Jobs that read their images many times wait for a copy to be made; others use one that is there. Raises Stopped on
    all ranks when one was asked to stop.
    """
    if not site.staging:
        return site
    copies = isinstance(spec, Pretrain) or plugins.evaluation_of(spec.protocol).resumes
    if ranks.world == 1:
        return staged(spec.data.name, site, copies=copies, should_stop=should_stop)
    ended = threading.Event()  # the copier is not waited for where a rank is lost
    with ThreadPoolExecutor(1) as pool:
        work: Future[Site] | None = None
        try:
            if ranks.local == 0:
                ends = partial(_either, should_stop, ended.is_set)
                work = pool.submit(staged, spec.data.name, site, copies=copies, should_stop=ends)
            while any_rank(work is not None and not work.done(), ranks, device):
                time.sleep(SECONDS)
        finally:
            ended.set()
    stopped = work is not None and isinstance(work.exception(), Stopped)
    if any_rank(stopped, ranks, device):
        raise Stopped("stopped while the data were copied to the nodes")
    if work is not None:
        return work.result()
    return staged(spec.data.name, site, copies=False, say=_silent)


def _either(one: Callable[[], bool], other: Callable[[], bool]) -> bool:
    return one() or other()


def _silent(line: str) -> None:
    """The node's first rank has said it."""
