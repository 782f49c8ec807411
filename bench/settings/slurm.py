"""What jobs ask Slurm for: the section [slurm] of bench.toml. Not hashed: no entry changes a job's identity.

[slurm]                     # every job
partition = "gpu"           # as sbatch has them: partition, constraint, account, qos
time = "24:00:00"           # time limit, "HH:MM:SS" or "D-HH:MM:SS"; a training goes on in as many slices as it needs
cpus = 8                    # per process; also the number of OpenMP threads
memory = "60G"              # per node
gpus = 1                    # per node; a pretraining runs one process a GPU
nodes = 1                   # of a pretraining
tasks = 1                   # processes per node of a pretraining, where there are no GPUs
images_per_gpu = 64         # of a pretraining, at least: each gets as many of the nodes x gpus as leave it so many and
                            # divide its batch. Without it all have nodes x gpus
gpu_memory = 80             # GiB of one GPU: jobs that would not fit are given more GPUs or checkpointed activations,
                            # or named before they start
setup = ["module load cuda"]            # lines of shell before the worker starts
options = { exclude = "node7" }         # any further option of sbatch, by its long name
array = 1000                # most jobs in one array; slurm.conf's MaxArraySize must not be smaller
signal = 120                # seconds before the end of the time limit at which a worker is told to save its state

[slurm.pretrain]            # the same keys, for pretrainings only
[slurm.evaluate]            # and for evaluations only: always one process, and one GPU at most by default
[slurm.cpu]                 # and for evaluations that no GPU would help (svm): as the others, with gpus = 0 and, where
                            # they have one, at least 8 cpus
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bench.errors import BenchError, unknown_name
from bench.spec import Resources

KINDS = ("pretrain", "evaluate", "cpu")
CPUS = 8  # of a job without a GPU beside others that have one, at least
_NUMBERS = {
    "gpus": 0,
    "cpus": 1,
    "nodes": 1,
    "tasks": 1,
    "images_per_gpu": 1,
    "gpu_memory": 1,
    "array": 1,
    "signal": 1,
}  # smallest value of each
_WORDS = ("partition", "constraint", "account", "qos", "memory", "time")
_KEYS = {*_NUMBERS, *_WORDS, "setup", "options"}
_RANKS = ("nodes", "tasks", "images_per_gpu")  # meaningless for an evaluation


@dataclass(frozen=True, kw_only=True)
class SlurmRequest:
    """What one job of a kind asks for."""

    partition: str = ""  # "": sbatch's own default, as for every word below
    constraint: str = ""
    account: str = ""
    qos: str = ""
    memory: str = ""  # per node, in sbatch's form: "500M", "60G"
    minutes: int = 24 * 60  # time limit
    gpus: int = 0  # per node
    cpus: int = 1  # per process
    nodes: int = 1
    tasks: int = 1  # processes per node
    images_per_gpu: int = 0  # of a pretraining, at least; 0: all have `ranks`
    gpu_memory: int = 0  # GiB of one GPU; 0: not known, and jobs are not compared with it
    setup: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    array: int = 1000  # most jobs of one array
    signal: int = 120  # seconds between the request to save and the end of the time limit

    @property
    def ranks(self) -> int:
        """Processes of one job."""
        return self.nodes * self.tasks

    @property
    def shapes(self) -> Mapping[int, tuple[int, int]]:
        """Numbers of ranks that fit into the request, and (nodes, processes per node) of each: the fewest nodes."""
        found: dict[int, tuple[int, int]] = {}
        for nodes in range(1, self.nodes + 1):
            for tasks in range(1, self.tasks + 1):
                found.setdefault(nodes * tasks, (nodes, tasks))
        return found

    def shaped(self, ranks: int) -> SlurmRequest:
        """The request of a job with fewer ranks: its share of nodes, GPUs and memory. Raises BenchError for others."""
        if ranks == self.ranks:
            return self
        if ranks not in self.shapes:
            raise BenchError(f"[slurm] has no room for {ranks} ranks: at most {self.nodes} nodes of {self.tasks}.")
        nodes, tasks = self.shapes[ranks]
        memory = self.memory and f"{-(-int(self.memory[:-1]) * tasks // self.tasks)}{self.memory[-1]}"
        return replace(self, nodes=nodes, tasks=tasks, gpus=tasks if self.gpus else 0, memory=memory)

    @property
    def resources(self) -> Resources:
        """What the worker is told."""
        return Resources(ranks=self.ranks, threads=self.cpus)

    @property
    def signal_seconds(self) -> int:
        """`signal`, but at most a sixth of the limit: Slurm looks every 30 s and so may send it that much earlier."""
        return max(1, min(self.signal, self.minutes * 10))


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """The requests of each kind of jobs."""

    pretrain: SlurmRequest = field(default_factory=SlurmRequest)
    evaluate: SlurmRequest = field(default_factory=SlurmRequest)
    cpu: SlurmRequest = field(default_factory=SlurmRequest)

    def request(self, kind: str) -> SlurmRequest:
        """For `pretrain`, `evaluate` or `cpu`."""
        return {"pretrain": self.pretrain, "cpu": self.cpu}.get(kind, self.evaluate)


def read_slurm(where: str, data: Mapping[str, object]) -> SlurmSettings:
    """Check the section and fill it in; `where` names the file. Raises BenchError with the one entry that is wrong."""
    common = {key: value for key, value in data.items() if key not in KINDS}
    _check(f"{where}: slurm", common)
    parts: dict[str, Mapping[str, object]] = {}
    for kind in KINDS:
        part = data.get(kind, {})
        if not isinstance(part, dict):
            raise BenchError(f"{where}: slurm.{kind} must be a section, [slurm.{kind}].")
        _check(f"{where}: slurm.{kind}", part)
        parts[kind] = part
    for kind, key in itertools.product(("evaluate", "cpu"), _RANKS):
        if key in parts[kind]:
            raise BenchError(
                f"{where}: slurm.{kind}.{key}: an evaluation is one process on one node; take the entry out."
            )
    if parts["cpu"].get("gpus"):
        raise BenchError(f"{where}: slurm.cpu.gpus is {parts['cpu']['gpus']}: these jobs use no GPU; take it out.")
    pretrain = _request({**common, **parts["pretrain"]})
    if "tasks" in {**common, **parts["pretrain"]} and pretrain.gpus not in (0, pretrain.tasks):
        raise BenchError(
            f"{where}: slurm.tasks is {pretrain.tasks}, but there are {pretrain.gpus} GPUs a node and each takes one "
            "process; give one of them."
        )
    if pretrain.gpus:
        pretrain = replace(pretrain, tasks=pretrain.gpus)
    evaluate = _request({**{k: v for k, v in common.items() if k not in _RANKS}, **parts["evaluate"]})
    if "gpus" not in parts["evaluate"]:
        evaluate = replace(evaluate, gpus=min(1, evaluate.gpus))
    alone = {k: v for k, v in common.items() if k not in _RANKS}
    cpu = replace(_request({**alone, **parts["evaluate"], **parts["cpu"]}), gpus=0)
    if "cpus" not in parts["cpu"] and evaluate.gpus:
        cpu = replace(cpu, cpus=max(CPUS, cpu.cpus))
    return SlurmSettings(pretrain=pretrain, evaluate=evaluate, cpu=cpu)


def minutes_of(text: str) -> int:
    """Whole minutes, rounded up, of "HH:MM:SS" or "D-HH:MM:SS". Raises ValueError."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d{1,3}):([0-5]\d):([0-5]\d)", text)
    if found is None:
        raise ValueError(text)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes + bool(seconds)


def _check(where: str, body: Mapping[str, object]) -> None:
    for key, value in body.items():
        if key not in _KEYS:
            raise unknown_name(f"key in {where}", key, _KEYS if where.endswith(KINDS) else {*_KEYS, *KINDS})
        name = f"{where}.{key}"
        if key in _NUMBERS:
            least = _NUMBERS[key]
            if type(value) is not int or value < least:
                raise BenchError(f"{name} is {value!r}, expected a whole number, at least {least}.")
        elif key in _WORDS and (not isinstance(value, str) or not value or "\n" in value):
            raise BenchError(f"{name} is {value!r}, expected a text in quotes.")
        elif key == "setup" and not (isinstance(value, list) and all(isinstance(line, str) for line in value)):
            raise BenchError(f'{name} is {value!r}, expected a list of lines of shell: ["module load cuda"].')
        elif key == "options":
            _check_options(name, value)
    time, memory = body.get("time"), body.get("memory")
    if isinstance(time, str):
        try:
            positive = minutes_of(time) > 0
        except ValueError:
            positive = False
        if not positive:
            raise BenchError(f'{where}.time is {time!r}, expected "HH:MM:SS" or "D-HH:MM:SS", at least a minute.')
    if isinstance(memory, str) and not re.fullmatch(r"[1-9]\d*[KMGT]", memory):
        raise BenchError(f'{where}.memory is {memory!r}, expected a number and K, M, G or T, as in "60G".')


def _check_options(name: str, value: object) -> None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise BenchError(f'{name} is {value!r}, expected texts by option name: {{ exclude = "node7" }}.')
    ours = {
        "array",
        "dependency",
        "job-name",
        "time",
        "nodes",
        "output",
        "error",
        "signal",
        "kill-on-invalid-dep",
        "requeue",
        "chdir",
    }
    for option in value:
        if option in ours or option in _KEYS or not re.fullmatch(r"[a-z][a-z-]*", option):
            raise BenchError(
                f"{name}: {option!r} cannot stand there: it is set by an entry of its own or by the project."
            )


def _request(body: Mapping[str, object]) -> SlurmRequest:
    def number(key: str, default: int) -> int:
        value = body.get(key, default)
        return value if isinstance(value, int) else default

    def word(key: str) -> str:
        return str(body.get(key, ""))

    setup, options = body.get("setup", []), body.get("options", {})
    return SlurmRequest(
        partition=word("partition"),
        constraint=word("constraint"),
        account=word("account"),
        qos=word("qos"),
        memory=word("memory"),
        minutes=minutes_of(str(body.get("time", "24:00:00"))),
        gpus=number("gpus", 0),
        cpus=number("cpus", 1),
        nodes=number("nodes", 1),
        tasks=number("tasks", 1),
        images_per_gpu=number("images_per_gpu", 0),
        gpu_memory=number("gpu_memory", 0),
        setup=tuple(str(line) for line in setup) if isinstance(setup, list) else (),
        options={str(k): str(v) for k, v in options.items()} if isinstance(options, dict) else {},
        array=number("array", 1000),
        signal=number("signal", 120),
    )
