"""How long a plan would take on a cluster: a discrete-event simulation of the queue, for `bench plan --nodes N`.

Nodes have GPU slots. A job takes the same number of slots on each of its nodes for a number of seconds of work; it
starts when its parents are done and room is free, longest chain first, and smaller jobs behind a waiting one fill the
gaps. An attempt begins with a start-up and ends when the work is done, at the time limit, or when it is preempted
(exponential waiting times). A job that keeps its state goes on where it was; another begins anew. Then it queues again.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.errors import BenchError

STARTUP_SECONDS = 60.0  # of every attempt: Python, torch, data, the checkpoint
REQUEUE_SECONDS = 120.0  # Slurm's own wait before a requeued job may start again
NEVER = 100_000  # attempts: a job that is expected to need more never finishes in practice
TOO_MANY = 1_000_000  # attempts of all jobs: about ten seconds of simulation


@dataclass(frozen=True)
class Cluster:
    """The machine: equal nodes.

    `limit` is the time limit of an attempt, `preemptions` their mean number an hour of a running job.
    """

    nodes: int
    slots: int = 8  # GPUs of a node
    limit: float = float("inf")  # seconds
    preemptions: float = 0.0
    startup: float = STARTUP_SECONDS
    requeue: float = REQUEUE_SECONDS


@dataclass(frozen=True)
class Work:
    """One job: seconds of work on `nodes` times `slots` GPUs."""

    id: str
    seconds: float
    needs: tuple[str, ...] = ()
    nodes: int = 1
    slots: int = 1  # on each node
    keeps: bool = True  # goes on from a checkpoint


@dataclass(frozen=True)
class Simulated:
    """What the simulation found."""

    seconds: float  # until the last job is done
    gpu_seconds: float  # occupied, start-ups and lost work included
    useful_gpu_seconds: float
    attempts: int
    preempted: int
    ends: Mapping[str, float]  # per job


def simulate(jobs: Sequence[Work], cluster: Cluster, seed: int = 0) -> Simulated:
    """Run all jobs, parents before children in `jobs`. The same seed gives the same outcome.

    Raises BenchError for a job that can never finish: more nodes or slots than there are, a limit that is too short for
    one that keeps no state, or preemptions that leave it no time to get on. So every simulation ends, and soon.
    """
    return _Simulation(jobs, cluster, random.Random(seed)).run()


class _Simulation:
    """The state of one run."""

    def __init__(self, jobs: Sequence[Work], cluster: Cluster, draws: random.Random) -> None:
        self.cluster, self.draws = cluster, draws
        self.jobs = {job.id: job for job in jobs}
        for job in jobs:
            _check(job, cluster)
        every = sum(_attempts(job, cluster) for job in jobs)
        if not every <= TOO_MANY:
            raise BenchError(
                f"about {every:,.0f} attempts would be needed for {len(jobs):,} jobs, more than the {TOO_MANY:,} that "
                "are simulated: give a longer time limit, fewer preemptions, or fewer tables."
            )
        self.left = {job.id: job.seconds for job in jobs}
        self.missing = {job.id: sum(need in self.jobs for need in job.needs) for job in jobs}
        self.children: dict[str, list[str]] = {job.id: [] for job in jobs}
        chain: dict[str, float] = {}
        for job in reversed(jobs):
            for need in job.needs:
                if need in self.jobs:
                    self.children[need].append(job.id)
            chain[job.id] = job.seconds + max((chain[child] for child in self.children[job.id]), default=0.0)
        place = {job.id: number for number, job in enumerate(jobs)}
        self.rank = {job.id: (-chain[job.id], place[job.id]) for job in jobs}
        self.free = [cluster.slots] * cluster.nodes
        # Waiting jobs by what they ask for: jobs that ask for the same need not each be tried when there is no room.
        self.waiting: dict[tuple[int, int], list[tuple[float, int, str]]] = {}
        self.events: list[
            tuple[float, int, str, str, tuple[int, ...], float]
        ] = []  # time, order, what, job, nodes, work done
        self.count = 0
        self.ends: dict[str, float] = {}
        self.gpu_seconds, self.attempts, self.preempted = 0.0, 0, 0

    def run(self) -> Simulated:
        now = 0.0
        for job in self.jobs:
            if not self.missing[job]:
                self._wait(job)
        self._start(now)
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                self._happen(now, *heapq.heappop(self.events)[2:])
            self._start(now)
        useful = sum(job.seconds * job.nodes * job.slots for job in self.jobs.values())
        return Simulated(
            max(self.ends.values(), default=0.0), self.gpu_seconds, useful, self.attempts, self.preempted, self.ends
        )

    def _wait(self, job: str) -> None:
        kind = (self.jobs[job].nodes, self.jobs[job].slots)
        heapq.heappush(self.waiting.setdefault(kind, []), (*self.rank[job], job))

    def _start(self, now: float) -> None:
        """Start what fits, highest rank first over all kinds."""
        full: set[tuple[int, int]] = set()
        while True:
            kinds = [kind for kind, heap in self.waiting.items() if heap and kind not in full]
            if not kinds:
                return
            kind = min(kinds, key=lambda k: self.waiting[k][0])
            place = self._room(*kind)
            if place is None:
                full.add(kind)
                continue
            self._attempt(now, heapq.heappop(self.waiting[kind])[2], place)

    def _room(self, nodes: int, slots: int) -> tuple[int, ...] | None:
        """Nodes with enough free slots, the fullest first, so that whole nodes stay free for wide jobs."""
        fitting = [number for number, free in enumerate(self.free) if free >= slots]
        if len(fitting) < nodes:
            return None
        return tuple(heapq.nsmallest(nodes, fitting, key=lambda number: (self.free[number], number)))

    def _attempt(self, now: float, job: str, place: tuple[int, ...]) -> None:
        work, cluster = self.jobs[job], self.cluster
        for node in place:
            self.free[node] -= work.slots
        full = cluster.startup + self.left[job]
        broken = self.draws.expovariate(cluster.preemptions / 3600) if cluster.preemptions else float("inf")
        lasts = min(full, cluster.limit, broken)
        self.preempted += lasts < min(full, cluster.limit)
        done = max(0.0, lasts - cluster.startup)
        what = "done" if lasts == full else "again"
        self._later(now + lasts, what, job, place, done)
        self.attempts += 1
        self.gpu_seconds += lasts * work.slots * work.nodes

    def _later(self, when: float, what: str, job: str, place: tuple[int, ...], done: float) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what, job, place, done))

    def _happen(self, now: float, what: str, job: str, place: tuple[int, ...], done: float) -> None:
        for node in place:
            self.free[node] += self.jobs[job].slots
        if what == "queue":
            self._wait(job)
        elif what == "again":
            if self.jobs[job].keeps:
                self.left[job] -= done
            self._later(now + self.cluster.requeue, "queue", job, (), 0.0)
        else:
            self.ends[job] = now
            for child in self.children[job]:
                self.missing[child] -= 1
                if not self.missing[child]:
                    self._wait(child)


def _check(job: Work, cluster: Cluster) -> None:
    if job.nodes > cluster.nodes or job.slots > cluster.slots:
        asked, there = f"{job.nodes} nodes with {job.slots} GPUs each", f"{cluster.nodes} with {cluster.slots}"
        raise BenchError(f"{job.id} asks for {asked}, the cluster has {there}: it can never start.")
    if cluster.limit <= cluster.startup or (not job.keeps and cluster.limit < cluster.startup + job.seconds):
        needs = (cluster.startup + (0 if job.keeps else job.seconds)) / 3600
        raise BenchError(
            f"{job.id} needs more than {needs:.2f} h at a stretch, the time limit is {cluster.limit / 3600:.2f} h: "
            "it can never finish."
        )
    attempts = _attempts(job, cluster)
    if not attempts <= NEVER:
        how = "from a checkpoint on" if job.keeps else "at a stretch, as it keeps no state"
        limit = "no time limit" if math.isinf(cluster.limit) else f"a time limit of {cluster.limit / 3600:g} h"
        raise BenchError(
            f"{job.id} needs {job.seconds / 3600:.2f} h {how}, and would take {_count(attempts)} attempts at "
            f"{cluster.preemptions:g} preemptions an hour and {limit}: it can never finish. At most {NEVER:,} are "
            "simulated: give fewer preemptions or a longer time limit."
        )


def _attempts(job: Work, cluster: Cluster) -> float:
    """How many attempts a job is expected to need, about; infinity or NaN where it gets nowhere."""
    rate = cluster.preemptions / 3600
    # an attempt must last through its start-up, and where nothing is kept through all the work, to come to the end
    risk = rate * (cluster.startup + (0.0 if job.keeps else job.seconds))
    if not risk < 700:  # e to that is about what a float can hold
        return math.inf
    if not job.keeps or not job.seconds:
        return math.exp(risk)
    stretch = min(cluster.limit - cluster.startup, job.seconds)  # of work in one attempt, if nothing ends it before
    if rate:
        stretch = math.exp(-risk) * -math.expm1(-rate * stretch) / rate
    return job.seconds / stretch if stretch > 0 else math.inf


def _count(attempts: float) -> str:
    return f"about {attempts:,.0f}" if attempts < 1e9 else "more than a billion"
