"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Tables = Annotated[
    list[str] | None,
    typer.Option("--table", "-t", help="Table to regenerate, e.g. simclr_table6. May be given several times."),
]
All = Annotated[bool, typer.Option("--all", help="All tables.")]
ScaleName = Annotated[
    str, typer.Option("--scale", "-s", help="embedded (two CPU cores, minutes), smoke, cifar or paper.")
]
Seeds = Annotated[
    int, typer.Option("--seeds", help="Repeat every number with so many seeds; the table shows mean and sd.")
]
Rows = Annotated[
    list[str] | None,
    typer.Option("--rows", help="Only this row: its label, full name or method. May be given several times."),
]
Columns = Annotated[list[str] | None, typer.Option("--columns", help="Only this column. May be given several times.")]
Released = Annotated[
    bool, typer.Option("--released", help="No pretraining: evaluate the authors' released weights (scale paper).")
]
AcceptData = Annotated[
    bool,
    typer.Option("--accept-data", help="Keep done jobs though the data that they read have changed, and note it."),
]
Nodes = Annotated[int | None, typer.Option("--nodes", help="Also simulate this plan on a cluster of so many nodes.")]
TimeLimit = Annotated[float | None, typer.Option("--time-limit", help="Of that cluster, in hours; default: none.")]
PreemptionRate = Annotated[float, typer.Option("--preemption-rate", help="Preemptions an hour of a running job there.")]
PricedDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Price the jobs for it, whatever is here: v100 (32 GB; v100-16gb), a100 (80 GB; a100-40gb), h100, h200 "
        "or cpu, one core. Default: this machine's.",
    ),
]
Forced = Annotated[
    list[str] | None,
    typer.Option("--force", help="Run this job again even if it is done: its id or the beginning."),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Jobs whose checkpoints are damaged or do not fit start anew; without it they fail, to lose nothing "
        "unasked. The files are kept under another name.",
    ),
]
Watch = Annotated[
    bool, typer.Option("--watch", help="With --executor slurm: follow the jobs to their end, then print the table.")
]
OnCpu = Annotated[
    bool, typer.Option("--on-cpu", help="Pretrain at scale paper without a GPU though it takes more than a day.")
]
Normalize = Annotated[
    str | None,
    typer.Option(
        "--normalize", help="Its inputs: imagenet (mean and deviation; default at scale paper) or none (0 to 1)."
    ),
]
IgnoreMemory = Annotated[
    bool,
    typer.Option("--ignore-memory", help="Start jobs though they are predicted to take more memory than a GPU has."),
]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="local (one process a core or GPU), slurm, or inline (this process).")
]
