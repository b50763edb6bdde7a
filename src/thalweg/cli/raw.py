"""Commands: the landing zone, and where numbers came from."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from typing import Annotated

import typer

from thalweg.cli.common import (
    DataDir,
    Json,
    bars,
    coloured,
    local_settings,
    print_json,
    print_table,
    working,
)
from thalweg.errors import InvalidInput

__all__ = ["register"]

commands = typer.Typer(
    help="Files as the providers gave them, never changed.", no_args_is_help=True
)
COLOURS = {"missing": "red", "damaged": "red", "unreadable": "yellow"}
Source = Annotated[str | None, typer.Option(help="Only files of this source.")]
Dataset = Annotated[str | None, typer.Option(help="Only files of this dataset.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.add_typer(commands, name="raw")
    app.command()(lineage)


@commands.command("list")
def list_files(
    source: Source = None,
    dataset: Dataset = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest last.")] = 20,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List the raw files, the newest last.

    Example: `thalweg raw list --source usgs`
    """
    from thalweg import raw

    found = raw.find(source, dataset, settings=local_settings(data_dir), limit=limit)
    if json:
        return print_json([asdict(file) for file in found])
    if not found:
        return typer.echo("No such raw files; `thalweg pipeline list` names what lands some")
    rows = [
        [file.id[-12:], file.source, file.dataset, f"{file.ingested_at:%Y-%m-%d %H:%M}",
         f"{file.size:,}", file.url]
        for file in found
    ]  # fmt: skip
    print_table(["file", "source", "dataset", "landed, UTC", "bytes", "from"], rows)
    typer.echo(
        "Look into one: thalweg raw show FILE; what was made of it: thalweg lineage FILE --down"
    )


@commands.command()
def show(
    file_id: Annotated[str, typer.Argument(metavar="FILE", help="Id of a raw file, or its end.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show a raw file: where it came from and lies, its checksum, and whether it still has it.

    Example: `thalweg raw show 5e0a2b1c9d3f`
    """
    from thalweg import raw

    settings = local_settings(data_dir)
    file = raw.get(file_id, settings)
    (verified,) = raw.verify([file])
    about = asdict(file) | {"state": verified.state}
    if json:
        return print_json(about)
    for key, value in about.items():
        if key != "headers" and value is not None:
            typer.echo(f"{key.replace('_', ' '):12} {value}")
    if verified.message:
        typer.echo(verified.message)
    if file.headers:
        print_table(["header", "value"], [[k, str(v)] for k, v in file.headers.items()])


@commands.command()
def verify(
    source: Source = None,
    dataset: Dataset = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Hash the stored files again; exit 1 if one is missing or is not what landed.

    Example: `thalweg raw verify --source usgs`
    """
    from thalweg import raw

    settings = local_settings(data_dir)
    files = raw.find(source, dataset, settings=settings)
    with bars(hidden=json) as step:
        verified = raw.verify(files, step("verify"))
    wrong = [each for each in verified if each.state != "ok"]
    if json:
        print_json({"files": len(files), "wrong": [asdict(each) for each in wrong]})
    else:
        rows = [
            [each.file.id[-12:], coloured(each.state, COLOURS[each.state]), each.message]
            for each in wrong
        ]
        if rows:
            print_table(["file", "state", "seen"], rows)
        size = sum(file.size for file in files)
        typer.echo(
            f"{len(files) - len(wrong):,} of {len(files):,} files are as they landed "
            f"({size:,} bytes in all)"
        )
    if wrong:
        raise typer.Exit(1)


def lineage(
    what: Annotated[
        str, typer.Argument(help="A table, or the id (its end will do) of a run or raw file.")
    ],
    where: Annotated[
        str | None, typer.Option(help="Only these rows of the table: \"metric_name = 'kge'\".")
    ] = None,
    snapshot: Annotated[int | None, typer.Option(help="The table as of this snapshot.")] = None,
    down: Annotated[
        bool, typer.Option("--down", help="What was made of it, not what it came from.")
    ] = False,
    all: Annotated[bool, typer.Option("--all", help="Show every branch of the tree.")] = False,
    json: Json = False,
    openlineage: Annotated[
        bool,
        typer.Option("--openlineage", help="Print the runs as OpenLineage events, one a line."),
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Trace a number to the bytes that it came from, or a file to what was made of it.

    Examples:

        thalweg lineage metrics --where "primary_location_id = 'usgs-03171000'"

        thalweg lineage primary_timeseries --down

        thalweg lineage 5e0a2b1c9d3f --down
    """
    from rich.console import Console

    from thalweg import lineage as library

    settings = local_settings(data_dir)
    if down and (where is not None or snapshot is not None):
        raise InvalidInput("--where and --snapshot trace upward: leave out --down")
    with working(f"tracing {what}"):
        found = (
            library.down(what, settings) if down else library.up(what, where, snapshot, settings)
        )
    if openlineage:
        for event in library.openlineage(found, settings):
            typer.echo(json_module.dumps(event, default=str))
    elif json:
        print_json(found.as_dict())
    else:
        console = Console()
        console.print(found.tree(len(found.edges) + 1) if all else found)
