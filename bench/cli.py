"""The command line. Chooses WHAT runs, never a hyperparameter.

Imports are inside the commands: `--help`, `list`, `status`, `logs` and `cancel` must answer at once, without torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import BenchError

if TYPE_CHECKING:
    from bench import session
    from bench.site import Site

app = typer.Typer(
    help="Regenerate the tables of self-supervised learning: `bench run --table simclr_table6`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Tables = Annotated[list[str] | None, typer.Option("--table", "-t", help="Table to regenerate, e.g. simclr_table6. May be given several times.")]
All = Annotated[bool, typer.Option("--all", help="All tables.")]
ScaleName = Annotated[str, typer.Option("--scale", "-s", help="embedded (two CPU cores, minutes), smoke, cifar or paper.")]
Seeds = Annotated[int, typer.Option("--seeds", help="Repeat every number with so many seeds; the table shows mean and sd.")]
Rows = Annotated[list[str] | None, typer.Option("--rows", help="Only this row: its label, full name or method. May be given several times.")]
Columns = Annotated[list[str] | None, typer.Option("--columns", help="Only this column. May be given several times.")]


@app.command("list")
def list_(what: Annotated[str, typer.Argument(help="methods, evals, tables, scales or datasets.")] = "tables") -> None:
    """What there is: methods, evals, tables, scales, datasets."""
    from bench import listing

    listing.show(what)


@app.command()
def plan(
    table: Tables = None, all_: All = False, scale: ScaleName = "embedded", seeds: Seeds = 1, rows: Rows = None, columns: Columns = None
) -> None:
    """Show the jobs of a table, what is done and what is not and why, and what the rest costs. Submits nothing."""
    from bench import session

    session.show_plan(_request(table, all_, scale, seeds, rows, columns))


@app.command()
def run(
    table: Tables = None,
    all_: All = False,
    scale: ScaleName = "embedded",
    seeds: Seeds = 1,
    rows: Rows = None,
    columns: Columns = None,
    executor: Annotated[str, typer.Option("--executor", help="local (one process a core or GPU) or inline (this process).")] = "local",
    force: Annotated[list[str] | None, typer.Option("--force", help="Run this job again even if it is done: its id or the beginning.")] = None,
) -> None:
    """Regenerate a table: run what is missing, print the table, write CSV, Markdown, LaTeX and the HTML report."""
    from bench import session

    raise typer.Exit(session.run(_request(table, all_, scale, seeds, rows, columns), executor, force or []))


@app.command()
def status(table: Tables = None, watch: Annotated[bool, typer.Option("--watch", help="Keep showing until nothing runs.")] = False) -> None:
    """The state of every table that was run here; with --table, of every job."""
    from bench import monitor

    monitor.show_status(_site(), table or [], watch=watch)


@app.command()
def logs(
    job: Annotated[str, typer.Argument(help="Job id or its beginning.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print a job's log."""
    from bench import monitor

    monitor.show_log(_site(), job, follow=follow)


@app.command()
def cancel(
    job: Annotated[str | None, typer.Argument(help="Job id or its beginning.")] = None,
    table: Tables = None,
) -> None:
    """Stop a job, or all jobs of a table: running workers save their state first. `bench run` goes on with them."""
    from bench import monitor

    if (job is None) == (not table):
        raise BenchError("cancel needs either a job id or --table.")
    monitor.cancel(_site(), job, table or [])


@app.command()
def report(
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; default: [paths] report of bench.toml, else reports/out.")] = None,
    serve: Annotated[
        int | None, typer.Option("--serve", min=0, max=65535, help="Then serve it on this port of 127.0.0.1, rebuilt while jobs run.")
    ] = None,
) -> None:
    """Build the HTML report of everything that was run here: one folder that opens offline."""
    from bench import session

    session.report(_site(), out, serve)


def main() -> None:
    """Entry point: a BenchError is one line and exit code 2."""
    try:
        app()
    except BenchError as error:
        from bench.errors import one_line

        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)


def _site() -> Site:
    from bench.site import find_site

    return find_site()


def _request(table: list[str] | None, all_: bool, scale: str, seeds: int, rows: list[str] | None, columns: list[str] | None) -> session.Request:
    from bench import plugins, session

    if all_ and table:
        raise BenchError("give either --table or --all.")
    if not all_ and not table:
        raise BenchError(f"which table? --table NAME or --all. Tables: {', '.join(plugins.names('table'))}.")
    tables = plugins.names("table") if all_ else list(dict.fromkeys(table or []))
    return session.Request(_site(), tuple(tables), scale, seeds, tuple(rows or ()), tuple(columns or ()))


if __name__ == "__main__":
    main()
