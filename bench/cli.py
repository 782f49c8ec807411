"""The command line. Chooses WHAT runs, never a hyperparameter.

Imports are inside the commands: `--help`, `list`, `status`, `logs` and `cancel` must answer at once, without torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import packages
from bench.commands import options
from bench.commands.data.cli import data_app
from bench.commands.options import All, Columns, ExecutorName, Released, Rows, ScaleName, Seeds, Tables
from bench.commands.printing import MISUSE, misused, never_fail
from bench.errors import BenchError, one_line

if TYPE_CHECKING:
    from bench.commands.request import TableRequest
    from bench.settings.site import Site

app = typer.Typer(
    help="Regenerate the tables of self-supervised learning: `bench run --table simclr_table6`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(data_app, name="data")


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, evals, tables, scales or datasets.")] = "tables",
    missing: Annotated[
        bool, typer.Option("--missing", help="With methods: what tables print and nothing here can run yet.")
    ] = False,
    differences: Annotated[bool, typer.Option("--differences", help="From the authors' released code.")] = False,
) -> None:
    """What there is: methods, evals, tables, scales, datasets."""
    from bench.commands.list import show

    show(what, missing=missing, differences=differences)


@app.command()
def plan(
    table: Tables = None,
    all_: All = False,
    scale: ScaleName = "embedded",
    seeds: Seeds = 1,
    rows: Rows = None,
    columns: Columns = None,
    released: Released = False,
    nodes: options.Nodes = None,
    time_limit: options.TimeLimit = None,
    preemption_rate: options.PreemptionRate = 0.0,
    device: options.PricedDevice = None,
    accept_data: options.AcceptData = False,
) -> None:
    """Show the jobs of a table, what is done and what is not and why, and what the rest costs. Submits nothing."""
    from bench.commands.plan import show_plan
    from bench.costs.devices import device_named

    if nodes is None and (time_limit is not None or preemption_rate):
        raise BenchError("--time-limit and --preemption-rate describe the cluster of --nodes: give --nodes too.")
    imagined = None
    if nodes is not None:
        from bench.costs.forecast import Imagined

        imagined = Imagined(nodes, time_limit, preemption_rate)
    priced = device_named(device) if device is not None else None
    asked = _request(table, all_, scale, seeds, rows, columns, released=released)
    show_plan(asked, imagined, device=priced, accept_data=accept_data)


@app.command()
def run(
    table: Tables = None,
    all_: All = False,
    scale: ScaleName = "embedded",
    seeds: Seeds = 1,
    rows: Rows = None,
    columns: Columns = None,
    released: Released = False,
    executor: ExecutorName = "local",
    watch: options.Watch = False,
    force: options.Forced = None,
    accept_data: options.AcceptData = False,
    restart: options.Restart = False,
    on_cpu: options.OnCpu = False,
    ignore_memory: options.IgnoreMemory = False,
) -> None:
    """Regenerate a table: run what is missing, print the table, write CSV, Markdown, LaTeX and the HTML report."""
    from bench.commands import run as running

    request = _request(table, all_, scale, seeds, rows, columns, released=released)
    allowed = running.Allowed(accept_data=accept_data, restart=restart, on_cpu=on_cpu, any_memory=ignore_memory)
    raise typer.Exit(running.run(request, executor, force or [], watch=watch, allowed=allowed))


@app.command()
def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint", help="A file with the weights of an encoder, in any layout of bench/weights/layouts.py."
        ),
    ],
    protocol: Annotated[
        list[str],
        typer.Option("--protocol", "-p", help="An evaluation, see `bench list evals`. May be given several times."),
    ],
    network: Annotated[
        str | None, typer.Option("--network", help="Its architecture in the papers' words; default: resnet50.")
    ] = None,
    width: Annotated[int | None, typer.Option("--width", help="Its width: 1, 2, 4.")] = None,
    normalize: options.Normalize = None,
    scale: ScaleName = "embedded",
    dataset: Annotated[
        str, typer.Option("--dataset", help="In the papers' words; the scale translates it.")
    ] = "imagenet",
    variant: Annotated[
        str, typer.Option("--variant", help="A paper's own settings of the protocol, e.g. simclr.")
    ] = "",
    part: Annotated[
        str,
        typer.Option("--part", help="Which network of a file with several, as the report of its keys names them."),
    ] = "",
    executor: ExecutorName = "local",
    force: Annotated[bool, typer.Option("--force", help="Run its jobs again even if they are done.")] = False,
    accept_data: options.AcceptData = False,
    restart: options.Restart = False,
) -> None:
    """Evaluate a checkpoint of your own under any protocol, and print each number with its protocol."""
    from bench.commands import evaluate as evaluating

    asked = evaluating.CheckpointRequest(
        _site(), checkpoint, tuple(dict.fromkeys(protocol)), scale, network, width, normalize, dataset, variant, part
    )
    raise typer.Exit(evaluating.run(asked, executor, force=force, accept_data=accept_data, restart=restart))


@app.command()
def status(
    table: Tables = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing until nothing runs any more.")] = False,
) -> None:
    """The state of every table that was run here; with --table, of every job."""
    from bench.commands import watching

    raise typer.Exit(watching.status(_site(), table or [], watch=watch))


@app.command()
def logs(
    job: Annotated[str, typer.Argument(help="Job id or its beginning.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print a job's log."""
    from bench.commands import jobs

    jobs.show_log(_site(), job, follow=follow)


@app.command()
def cancel(
    job: Annotated[str | None, typer.Argument(help="Job id or its beginning.")] = None,
    table: Tables = None,
) -> None:
    """Stop a job, or all jobs of a table: running workers save their state first. `bench run` goes on with them."""
    from bench.commands import jobs

    jobs.cancel(_site(), job, table or [])


@app.command()
def retry(
    job: Annotated[str | None, typer.Argument(help="Job id or its beginning.")] = None,
    table: Tables = None,
) -> None:
    """Submit to Slurm again what failed there: a job with what waits for it, or all failed jobs of a table."""
    from bench.commands import jobs

    jobs.retry(_site(), job, table or [])


@app.command()
def doctor(
    throughput: Annotated[
        bool,
        typer.Option(
            "--throughput",
            help="Measure loader and training step instead: which one is the bottleneck, how many workers to use.",
        ),
    ] = False,
    scale: Annotated[
        str | None,
        typer.Option(
            "--scale", "-s", help="With --throughput: whose recipe; default: embedded, or paper for images on disk."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="With --throughput: another data set than the scale's, see `bench list datasets`."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="With --throughput: length of each measurement; default: 10.")
    ] = None,
) -> None:
    """What works on this machine and site, what does not, and what to do about it.

    Exit code 1 when something is broken.
    """
    if throughput:
        from bench.commands.throughput import measure as measuring

        raise typer.Exit(measuring.show(_site(), scale=scale, data=data, seconds=10.0 if seconds is None else seconds))
    if scale is not None or data is not None or seconds is not None:
        raise BenchError("--scale, --data and --seconds say what --throughput measures: give --throughput too.")
    from bench.commands.doctor import show

    raise typer.Exit(show(_site()))


@app.command()
def check(
    table: Tables = None,
    all_: All = False,
    scale: ScaleName = "embedded",
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Also write the outcome as JUnit XML, a test case a cell.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Make the finished results the new reference instead.")
    ] = False,
    references: Annotated[
        Path | None,
        typer.Option("--references", help="Folder of the references; default: results/reference of the project."),
    ] = None,
) -> None:
    """Hold the results of a table against its reference.

    Exit code 1 names the cells that regressed, went missing or changed protocol.
    """
    from bench.commands.check import check_tables

    raise typer.Exit(
        check_tables(_request(table, all_, scale, 1, None, None), junit, references, update=update, everything=all_)
    )


@app.command()
def report(
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write; default: [paths] report of bench.toml, else reports/out."),
    ] = None,
    serve: Annotated[
        int | None,
        typer.Option(
            "--serve", min=0, max=65535, help="Then serve it on this port of 127.0.0.1, rebuilt while jobs run."
        ),
    ] = None,
    records: Annotated[
        bool, typer.Option("--records", help="Of the results that are committed with the project instead.")
    ] = False,
) -> None:
    """Build the HTML report of everything that was run here: one folder that opens offline."""
    from bench.commands import report as reporting

    reporting.report(_site(), out, serve, recorded=records)


def main() -> None:
    """Entry point: a BenchError is one line and exit code 2."""
    never_fail()
    try:
        if sys.argv[1:2] != ["doctor"]:  # which says it beside all else
            packages.check()
        sys.exit(app(standalone_mode=False))
    except MISUSE as error:
        sys.exit(misused(error))
    except BenchError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):  # the second is what an older typer makes of the first
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)


def _site() -> Site:
    from bench.bench_toml import find_site

    return find_site()


def _request(
    table: list[str] | None,
    all_: bool,
    scale: str,
    seeds: int,
    rows: list[str] | None,
    columns: list[str] | None,
    *,
    released: bool = False,
) -> TableRequest:
    from bench import plugins
    from bench.commands.request import TableRequest

    if all_ and table:
        raise BenchError("give either --table or --all.")
    if not all_ and not table:
        raise BenchError(f"which table? --table NAME or --all. Tables: {', '.join(plugins.names('table'))}.")
    tables = plugins.names("table") if all_ else list(dict.fromkeys(table or []))
    return TableRequest(_site(), tuple(tables), scale, seeds, tuple(rows or ()), tuple(columns or ()), released, all_)


if __name__ == "__main__":
    main()
