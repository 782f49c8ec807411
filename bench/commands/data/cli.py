"""The command line of `bench data`. Imports are inside the commands, as in bench/cli.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.errors import BenchError
from bench.wording import printable

data_app = typer.Typer(
    help="Data sets: what is here, whether it is whole, and fetching what can be fetched.", no_args_is_help=True
)
DataName = Annotated[str, typer.Argument(help="A data set or a published list: see `bench data list`.")]


@data_app.command("list")
def data_list() -> None:
    """Every data set and list: whether it is here, where, and what it is. Opens none of them."""
    from bench.bench_toml import find_site
    from bench.commands.data import check as checking

    for line in checking.overview(find_site()):
        print(printable(line))


@data_app.command("check")
def data_check(name: DataName) -> None:
    """Count classes and images, compare with the known numbers, decode a sample; exit 1 when something is wrong."""
    from bench.bench_toml import find_site
    from bench.commands.data import check as checking

    found = checking.check_data(name, find_site())
    for line in found.lines:
        print(printable(line))
    for problem in found.problems:
        print(f"problem: {printable(problem)}")
    print(f"{name}: {'not ' if found.problems else ''}as it should be")
    raise typer.Exit(1 if found.problems else 0)


@data_app.command("fetch")
def data_fetch(name: DataName) -> None:
    """Download a data set that torchvision can get, or a published list: to [data] of bench.toml, or data/NAME."""
    from bench.bench_toml import find_site
    from bench.commands.data import fetch

    site = find_site()
    print(printable(f"{name}: {fetch.fetch(name, site)}"))


@data_app.command("pack")
def data_pack(
    name: DataName,
    size: Annotated[
        int | None, typer.Option("--size", help="Shorter side of the packed images in pixels; default: 256.")
    ] = None,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Pack the files as they are: the same data set, read when [data] of bench.toml names the pack.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder to write; default: as [data] NAME-SIZE of bench.toml says, else data/NAME-SIZE, or "
            "data/NAME-as-is.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes; default: one a core. With --as-is threads; default: 8."),
    ] = None,
) -> None:
    """Put the images into a few large files: smaller ones, as the data set NAME-SIZE, or with --as-is the same bytes.

    The same command goes on after a stop and mends damage.
    """
    from bench.bench_toml import find_site
    from bench.data import packing, packing_as_is

    if as_is:
        if size is not None:
            raise BenchError("--as-is packs the files as they are: leave --size out.")
        pack = packing_as_is.pack_as_is(name, find_site(), out=out, workers=workers)
        print(printable(f"{name}: {pack.images:,} images, {pack.bytes / 1e9:.3g} GB in {pack.root}"))
        print(printable(f'to read them from there: {name} = "{pack.root}" under [data] in bench.toml'))
        return
    size = 256 if size is None else size
    made = packing.pack(name, size, find_site(), out=out, workers=workers)
    print(printable(f"{name}-{size}: {made.images:,} images, {made.bytes / 1e9:.3g} GB in {made.folder}"))
    if made.damaged:
        example = printable(made.damaged[0])
        print(f"{len(made.damaged)} images cannot be decoded and were stored as they are, e.g. {example}")
