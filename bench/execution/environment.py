"""The environment of a worker is made, not inherited: what another program left in the shell changes no job.

Taken out is what tells a process that it is one of several, what chooses threads, and what changes digits behind the
recipe; what says where things are (PATH, HOME, proxies, libraries) stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.machine import BESIDE, DEVICE

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",  # read before OMP_NUM_THREADS by NumPy's and SciPy's BLAS
    "GOTO_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_RANKS = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK"),
    *("ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
}
_LAUNCHERS = ("TORCHELASTIC_", "PET_", "SLURM_", "SLURMD_", "SUBMITIT_", "PMI", "OMPI_COMM_")
_HOW_SLURM_IS_ASKED = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"}
_PINNING = {
    *("OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"),
    *("MKL_DYNAMIC", "MKL_DOMAIN_NUM_THREADS", "OPENBLAS_MAIN_FREE"),
}
_DIGITS = {"NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"}  # float32 is float32: see device.py
_PYTHON = {"PYTHONIOENCODING", "PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONSTARTUP"}
_LANGUAGE = {"LANG", "LANGUAGE"}
_PLACES = {"SLURM_TMPDIR"}  # of this node, for [local] staging
UTF8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}  # names of files are bytes: a worker can print any of them


def of_no_launcher(inherited: Mapping[str, str]) -> dict[str, str]:
    """What is left when nothing says that this process is one of several, or inside a job of Slurm."""
    return {
        name: value
        for name, value in inherited.items()
        if name in _HOW_SLURM_IS_ASKED or not (name in _RANKS or name.startswith(_LAUNCHERS))
    }


def of_worker(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a process that works on a job: so many threads, UTF-8, one rank until it is told otherwise."""
    left_out = _PINNING | _DIGITS | _PYTHON | _LANGUAGE | {BESIDE, DEVICE}
    kept = {
        name: value
        for name, value in of_no_launcher(inherited).items()
        if name not in left_out and not name.startswith("LC_")
    }
    places = {name: inherited[name] for name in _PLACES if name in inherited}
    return kept | places | with_threads(threads) | UTF8 | {"PYTHONUNBUFFERED": "1"}


def with_threads(threads: int) -> dict[str, str]:
    """The variables by which the libraries know how many threads to start."""
    return dict.fromkeys(THREADS, str(threads))


def unset_on_node() -> str:
    """A line of shell for a job's script: what a node's own profile or the site's `setup` may have set."""
    names = sorted(_RANKS | _PINNING | _DIGITS | _PYTHON | _LANGUAGE | {BESIDE, DEVICE})
    return f"unset {' '.join(names)}"


def searched(inherited: str, *first: str) -> str:
    """PYTHONPATH: `first`, then what was inherited, absolute, as a worker's working folder may be another."""
    theirs = [str(Path(folder).absolute()) for folder in inherited.split(os.pathsep) if folder]
    return os.pathsep.join([*filter(None, first), *theirs])


@contextmanager
def worn_here(threads: int) -> Iterator[None]:
    """This process as a worker for a while: what it loads meanwhile and what it asks see a worker's environment.

    Libraries that are loaded already are told their number of threads and get the old one back.
    """
    from threadpoolctl import threadpool_limits

    before = dict(os.environ)
    made = of_worker(before, threads)
    for name in before.keys() - made.keys():
        del os.environ[name]
    os.environ.update(made)
    try:
        with threadpool_limits(threads):
            yield
    finally:  # and what the job's libraries have set for themselves stays
        for name in made.keys() - before.keys():
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if made.get(name) != value})
