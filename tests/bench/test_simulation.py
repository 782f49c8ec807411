from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bench.costs.devices import DEVICES
from bench.costs.estimates import Costs, Where
from bench.costs.forecast import Imagined, assumed, lines, on_slots, work_of
from bench.costs.simulation import Cluster, Work, simulate
from bench.errors import BenchError
from bench.planning.graph import plan
from bench.runs.folder import Runs
from bench.settings.site import Site
from bench.settings.slurm import SlurmRequest, SlurmSettings
from tests.conftest import knn_of, tiny_pretrain


def test_a_chain_and_a_gap_by_hand() -> None:
    # One node of two slots. `a` (100 s, then `c` 50 s) is the longest chain and starts with `d` (60 s), the next
    # longest; at 60 `b` (30 s) takes d's slot until 90; `c` starts when `a` is done at 100.
    jobs = [Work("a", 100), Work("b", 30), Work("c", 50, ("a",)), Work("d", 60)]
    found = simulate(jobs, Cluster(nodes=1, slots=2, startup=0))
    assert dict(found.ends) == {"d": 60, "b": 90, "a": 100, "c": 150}
    assert found.seconds == 150
    assert found.gpu_seconds == found.useful_gpu_seconds == 240
    assert found.attempts == 4


def list_schedule(jobs: dict[str, tuple[float, tuple[str, ...]]], slots: int) -> float:
    """When all is done if each free slot takes the ready job with the longest chain behind it."""

    def chain(job: str) -> float:
        return jobs[job][0] + max((chain(child) for child, (_, needs) in jobs.items() if job in needs), default=0.0)

    now, running, done = 0.0, dict[str, float](), set[str]()
    while len(done) < len(jobs):
        ready = [job for job, (_, needs) in jobs.items() if job not in running.keys() | done and done.issuperset(needs)]
        for job in sorted(ready, key=chain, reverse=True)[: slots - len(running)]:
            running[job] = now + jobs[job][0]
        now = min(running.values())
        done |= {job for job, end in running.items() if end == now}
        running = {job: end for job, end in running.items() if end > now}
    return now


@pytest.mark.parametrize("seed", range(30))
def test_time_on_slots_is_that_of_a_list_schedule_longest_chain_first(seed: int) -> None:
    draws = random.Random(seed)
    needs = [tuple(str(m) for m in range(n) if draws.random() < 3 / (n + 9)) for n in range(30)]
    jobs = {str(n): (draws.uniform(1, 100), needs[n]) for n in range(30)}
    costs: Any = SimpleNamespace(
        estimate=lambda job: SimpleNamespace(seconds=jobs[job.id][0]), ranks=lambda job: 1, device=DEVICES["h100"]
    )
    todo: list[Any] = [SimpleNamespace(id=job, needs=parents) for job, (_, parents) in jobs.items()]
    for slots in (1, 2, 3, 8, 64):
        assert on_slots(todo, costs, slots) == pytest.approx(list_schedule(jobs, slots), rel=1e-12)


def test_a_job_of_several_ranks_divides_its_time_and_on_gpus_has_a_slot_for_each() -> None:
    todo: list[Any] = [SimpleNamespace(id=name, needs=()) for name in "ab"]
    for device, seconds in ((DEVICES["h100"], 200), (DEVICES["cpu"], 100)):
        costs: Any = SimpleNamespace(
            estimate=lambda job: SimpleNamespace(seconds=400), ranks=lambda job: 4, device=device
        )
        assert on_slots(todo, costs, 4) == seconds


def test_start_up_is_paid_by_every_attempt_and_a_limit_cuts_work_into_attempts() -> None:
    # 250 s of work, 10 s start-up, limit 110 s: 100 + 100 + 50, with 20 s in the queue between.
    found = simulate([Work("a", 250)], Cluster(nodes=1, slots=1, limit=110, startup=10, requeue=20))
    assert found.seconds == 110 + 20 + 110 + 20 + 60
    assert found.attempts == 3
    assert found.gpu_seconds == 280
    assert found.preempted == 0


def test_wide_jobs_wait_for_whole_nodes_and_small_ones_are_packed() -> None:
    # Two nodes of two slots: the small jobs share one node, so the wide one has the other at once.
    jobs = [Work("wide", 100, slots=2), Work("s1", 10), Work("s2", 10)]
    assert dict(simulate(jobs, Cluster(nodes=2, slots=2, startup=0)).ends) == {"wide": 100, "s1": 10, "s2": 10}
    # Both nodes at once: it starts when the 150 s job, ranked before it, is done; the small one fills the gap.
    jobs = [Work("wide", 100, nodes=2, slots=2), Work("long", 150), Work("s", 10)]
    assert dict(simulate(jobs, Cluster(nodes=2, slots=2, startup=0)).ends) == {"s": 10, "long": 150, "wide": 250}


def test_preempted_work_is_kept_or_lost() -> None:
    cluster = Cluster(nodes=4, slots=1, preemptions=2.0, startup=0, requeue=0)
    kept = simulate([Work(str(n), 3600) for n in range(200)], cluster)
    assert kept.gpu_seconds == pytest.approx(kept.useful_gpu_seconds)
    assert kept.preempted / 200 == pytest.approx(2.0, rel=0.15)  # an hour of work at two preemptions an hour
    lost = simulate([Work(str(n), 3600, keeps=False) for n in range(200)], cluster)
    # Work that must run through: (exp(r) - 1) / r hours for one hour at r preemptions an hour, 3.19 for two.
    assert lost.gpu_seconds / lost.useful_gpu_seconds == pytest.approx(3.19, rel=0.2)
    assert simulate([Work(str(n), 3600) for n in range(200)], cluster).ends == kept.ends
    assert simulate([Work(str(n), 3600) for n in range(200)], cluster, seed=1).ends != kept.ends


def test_what_can_never_finish_is_named() -> None:
    with pytest.raises(BenchError, match="a asks for 3 nodes with 1 GPUs each, the cluster has 2 with 8"):
        simulate([Work("a", 1, nodes=3)], Cluster(nodes=2))
    with pytest.raises(BenchError, match=r"a needs more than 1\.02 h at a stretch, the time limit is 1\.00 h"):
        simulate([Work("a", 3600, keeps=False)], Cluster(nodes=2, limit=3600))


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("rate", [0.0, 1e-9, 5.0, 1e3, 1e9, float("inf"), float("nan")])
@pytest.mark.parametrize("limit", [60.0, 60.0 + 1e-9, 61.0, 7200.0, 1e12, float("inf")])
@pytest.mark.parametrize("seconds", [0.0, 1e-9, 30.0, 3600.0, 1e7, 1e13])
def test_every_rate_limit_and_length_ends_or_is_said_never_to_end(
    keeps: bool, rate: float, limit: float, seconds: float
) -> None:
    clock = time.process_time()
    found, said = None, "it can never finish"
    try:
        found = simulate([Work("a", seconds, keeps=keeps)], Cluster(nodes=1, limit=limit, preemptions=rate))
    except BenchError as error:
        said = str(error)
    assert said.count("it can never finish") == 1
    assert "\n" not in said
    if found is None:
        assert limit <= 61 or seconds > limit - 60 or rate > 1 or math.isnan(rate)
    else:
        assert found.ends.keys() == {"a"}
        assert found.seconds >= seconds
    assert time.process_time() - clock < 5


def test_a_job_that_is_preempted_faster_than_it_gets_on_is_named() -> None:
    cluster = Cluster(nodes=2, preemptions=5.0)
    with pytest.raises(BenchError, match=r"a needs 24\.00 h at a stretch, as it keeps no state, .* never finish"):
        simulate([Work("a", 86400, keeps=False)], cluster)
    assert simulate([Work("a", 86400)], cluster).preempted > 50  # with a checkpoint it gets on
    with pytest.raises(BenchError, match=r"about \d,\d{3},\d{3} attempts would be needed for 2,000 jobs"):
        simulate([Work(str(number), 8e5) for number in range(2000)], cluster)


def test_ten_thousand_jobs_are_simulated_in_seconds() -> None:
    jobs = [Work(f"p{n}", 1000 + n % 7, slots=8) for n in range(2000)]
    jobs += [Work(f"e{n}", 100, (f"p{n // 4}",)) for n in range(8000)]
    clock = time.process_time()
    assert len(simulate(jobs, Cluster(nodes=100, preemptions=0.1)).ends) == 10_000
    assert time.process_time() - clock < 10


def test_a_plan_takes_the_gpus_that_bench_toml_gives(runs: Runs) -> None:
    graph = plan([("a | kNN", knn_of(replace(tiny_pretrain(epochs=1e6), batch_size=240)))])
    costs = Costs(runs, graph)
    pretrain, evaluate = graph
    slurm = SlurmSettings(pretrain=SlurmRequest(gpus=4, nodes=2, tasks=4))
    site = Site(root=runs.root, runs=runs.root, output=runs.root, report=runs.root, slurm=slurm)
    work = work_of(pretrain, costs, site)
    assert (work.nodes, work.slots, work.keeps) == (2, 4, True)
    assert work.seconds == pytest.approx(costs.estimate(pretrain).seconds / 8)
    assert work_of(evaluate, costs, site).keeps is False
    (said,) = lines(list(graph), costs, site, Imagined(nodes=2, hours=24.0, preemptions=0.01))
    assert said.startswith(
        "simulated on 2 nodes of 4 GPUs, a time limit of 24 h, 0.01 preemptions an hour of a running job: "
    )
    with pytest.raises(BenchError, match="asks for 2 nodes with 4 GPUs each, the cluster has 1"):
        lines(list(graph), costs, site, Imagined(nodes=1))
    with pytest.raises(BenchError, match="--nodes must be at least 1, not 0"):
        lines(list(graph), costs, site, Imagined(nodes=0))
    for wrong in (Imagined(1, -3.0), Imagined(1, float("nan")), Imagined(1, None, float("inf")), Imagined(1, None, -1)):
        with pytest.raises(BenchError, match=r"--(time-limit|preemption-rate) must be .*, not "):
            lines([], costs, site, wrong)


def test_an_imagined_cluster_has_nodes_of_eight_gpus_where_bench_toml_says_nothing(runs: Runs) -> None:
    graph = plan([("a | kNN", knn_of(replace(tiny_pretrain(), batch_size=256)))])
    site = Site(root=runs.root, runs=runs.root, output=runs.root, report=runs.root)
    costs = Costs(runs, graph, where=Where(DEVICES["h100"], assumed(site)))
    pretrain, evaluate = graph
    work = work_of(pretrain, costs, site)
    assert (work.nodes, work.slots) == (1, 4)  # 64 of 256 images each
    assert work.seconds == pytest.approx(costs.estimate(pretrain).seconds / 4)
    assert work_of(evaluate, costs, site).slots == 1
    given = replace(site, ranks=2)
    assert (assumed(given), work_of(pretrain, costs, given).slots) == (given, 2)
