"""Processes that decode images, and what goes wrong in them: said in the job that waits for them, never lost.

A worker of PyTorch's DataLoader gives its batch to a thread of a queue, and an error there (no room in shared memory,
too many open files, something that cannot be pickled) is printed and forgotten, while the job waits for ever. Here
the error takes the place of the batch.
"""

from __future__ import annotations

import multiprocessing.queues
import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from bench.data.shared_memory import Batches, cannot_send, fitting, is_shortage
from bench.errors import BenchError, one_line
from bench.machine import start_of_helpers
from bench.seeding import seed_of

PREFETCHED = 2  # batches that a worker makes ahead


class _Items(Dataset[Any]):
    """What DataLoader wants: batches by number.

    A damaged file comes back as an item: raised in a worker, torch would put a traceback into it.
    """

    def __init__(self, batch: Callable[[int], Any]) -> None:
        self.batch = batch

    def __getitem__(self, number: int) -> Any:
        try:
            return self.batch(number)
        except BenchError as error:
            return error


def load(
    batch: Callable[[int], Any],
    numbers: Sequence[int],
    device: torch.device,
    *,
    seed: int,
    workers: int,
    shared: Batches,
) -> Iterator[Any]:
    """`batch` of every number, made by worker processes. Raises the BenchError of a damaged file.

    `shared`: what the batches take of shared memory, which must be there before the first worker starts.
    """
    workers = fitting(workers, shared)
    loader = DataLoader(
        _Items(batch),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        multiprocessing_context=start_of_helpers(workers),
        pin_memory=device.type == "cuda",
        # A generator of our own: the default would draw a base seed from, and so move, the global one.
        generator=torch.Generator().manual_seed(seed_of(seed, "loader")),
        worker_init_fn=speak_up,
    )
    for item in batches_of(loader):
        if isinstance(item, BenchError):
            raise item
        yield item


class _Said(ExceptionWrapper):
    """What PyTorch takes from a worker for an error, with one line instead of a traceback."""

    def __init__(self, message: str) -> None:
        self.message = message

    def reraise(self) -> NoReturn:
        """In the job."""
        raise BenchError(self.message)


def speak_up(worker: int) -> None:
    """For `worker_init_fn`: from now on what this worker cannot send is said by it."""
    multiprocessing.queues.Queue._on_queue_feeder_error = _instead  # type: ignore[attr-defined]


def _instead(queue: Any, error: BaseException, unsent: Any) -> None:
    """Called by the queue's thread, in which `unsent` is (number of the batch, batch), or bytes the pipe refused."""
    traceback.print_exception(error)
    if not isinstance(unsent, tuple) or isinstance(unsent[1], _Said):
        os._exit(1)  # nothing can be said any more: PyTorch notices that the worker is gone
    queue.put((unsent[0], _Said(str(cannot_send(one_line(error))))))


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches. Raises BenchError when workers cannot be started, one is killed or cannot send."""
    try:
        batches = iter(loader)
    except OSError as error:  # a semaphore is a file in shared memory too
        raise _not_started(error) from error
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            known = in_a_worker(error)
            if known is None:
                raise
            raise known from error
        yield batch


def in_a_worker(error: BaseException) -> BenchError | None:
    """The one line for an error that came of a loader's worker; None for any other.

    PyTorch raises the death of a worker wherever the job is at that moment, not only where it waits for a batch.
    """
    if not isinstance(error, RuntimeError):
        return None
    text = f"{error} {error.__cause__}"  # which worker, and from what
    if is_shortage(text):
        return cannot_send(text)
    killed = re.search(r"DataLoader worker \(pid (\d+)\) is killed by signal: ([^.]+)\.", text)
    if killed is None and not re.search(r"DataLoader worker \(pid\(s\) [\d, ]+\) exited unexpectedly", text):
        return None
    if killed is None:
        return BenchError("a worker that decodes images ended without a word; the log may say more.")
    if killed[2] == "Bus error":
        return cannot_send(killed[2])
    hint = " (out of memory, or by hand)" if killed[2] == "Killed" else ""
    return BenchError(f"a worker that decodes images (process {killed[1]}) was ended by the signal {killed[2]}{hint}.")


def _not_started(error: OSError) -> BenchError:
    reason = f"{error.strerror or error}"
    if "No space left" in reason:
        return cannot_send(f"shared memory: {reason}")
    return BenchError(
        f"the workers that decode images could not be started: {reason}. With workers = 0 under [local] in bench.toml "
        "the job itself decodes them."
    )
