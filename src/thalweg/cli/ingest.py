"""Commands: ingest, arrivals, quarantine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.cli.common import DataDir, Json, bars, local_settings, pairs, print_json, print_table
from thalweg.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from thalweg.quarantine import Entry

__all__ = ["register"]

commands = typer.Typer(
    help="What could not be taken into the warehouse, and why.", no_args_is_help=True
)
Pairs = list[str] | None
SHOWN = 20
NOTHING = "Nothing is in quarantine."


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.command()(ingest)
    app.command()(arrivals)
    app.add_typer(commands, name="quarantine")


def ingest(
    files: Annotated[list[str], typer.Argument(help="CSV, Parquet or NetCDF: paths or URIs.")],
    to: Annotated[str, typer.Option(help="Table of the warehouse.")] = "primary_timeseries",
    map: Annotated[Pairs, typer.Option(help="column=field of the file; repeat it.")] = None,
    set: Annotated[Pairs, typer.Option(help="column=text in all rows; repeat it.")] = None,
    prefix: Annotated[str, typer.Option(help="Source, put before the ids of locations.")] = "",
    timezone: Annotated[str, typer.Option(help="Zone of times that name none, as UTC.")] = "",
    missing: Annotated[
        list[float] | None, typer.Option(help="A value that stands for none; repeat it.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="Name under which the files land.")] = "files",
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Bring files of your own into the warehouse; exit 1 if one cannot be read.

    A column that is not mapped has its own name in the file. Values are converted to the unit in
    which the warehouse keeps the variable; rows that cannot be true wait in quarantine.

    Examples:

        thalweg ingest gauges.csv --to locations --map id=site_no --prefix usgs

        thalweg ingest flow.csv --map value=discharge --map value_time=datetime
        --map location_id=site_no --prefix usgs --timezone UTC --missing -999
        --set unit_name=ft^3/s --set variable_name=streamflow_hourly_inst
        --set configuration_name=usgs_observations
    """
    from functools import partial

    from thalweg import ingest as library
    from thalweg.sources import table

    layout = table.Layout(to, pairs(map), pairs(set), prefix, timezone, tuple(missing or ()))
    settings = local_settings(data_dir)
    uris = [uri if "://" in uri else f"file://{Path(uri).resolve()}" for uri in files]
    with bars(hidden=json) as step:
        landed = table.fetch(uris, dataset=dataset, settings=settings, progress=step("land"))
        read = partial(table.read, layout=layout)
        reading, _ = step("read"), step("check and write")
        loaded = library.load(read, landed, settings, reading)
    if json:
        print_json(loaded.as_dict())
    else:
        typer.echo(str(loaded))
    if any(entry.table is None for entry in loaded.quarantined):
        raise typer.Exit(1)


def arrivals(json: Json = False, data_dir: DataDir = None) -> None:
    """Take the files that have arrived in the raw bucket's inbox/; exit 1 if one cannot be taken.

    `pipelines/arrivals.yaml` says for each folder of the inbox how its files are read.

    Example: `thalweg arrivals`
    """
    from thalweg import arrivals as library
    from thalweg.errors import ThalwegError

    taken: list[dict[str, str]] = []
    failed: list[dict[str, str]] = []
    for uri, loaded in library.take(local_settings(data_dir)):
        is_wrong = isinstance(loaded, ThalwegError)
        (failed if is_wrong else taken).append({"file": uri, "said": str(loaded)})
        if not json:
            typer.secho(f"{uri}\n  {loaded}", fg="yellow" if is_wrong else None, err=is_wrong)
    if json:
        print_json({"taken": taken, "failed": failed})
    elif not taken and not failed:
        typer.echo("Nothing has arrived; files are put below inbox/ in the raw bucket")
    if failed:
        raise typer.Exit(1)


@commands.command("list")
def list_entries(
    released: Annotated[bool, typer.Option(help="Also those that are released.")] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List what is in quarantine.

    Example: `thalweg quarantine list`
    """
    from thalweg import quarantine

    entries = quarantine.list(local_settings(data_dir), released=released)
    if json:
        return print_json([asdict(entry) for entry in entries])
    if not entries:
        return typer.echo(NOTHING)
    head = ["id", "table", "rows", "since", "reason"]
    print_table(head, [_cells(entry) for entry in entries])


@commands.command()
def show(
    id: Annotated[str, typer.Argument(help="Id of an entry, or its beginning.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show an entry: its rows with their reasons, and the raw file they came from.

    Example: `thalweg quarantine show 5d0b5a0e --json`
    """
    from thalweg import quarantine

    entry, rows = quarantine.show(id, local_settings(data_dir))
    if json:
        listed = rows.to_pylist() if rows is not None else None
        return print_json(asdict(entry) | {"rows": listed})
    for key, value in asdict(entry).items():
        typer.echo(f"{key:12} {'' if value is None else value}")
    if rows is not None:
        rows = rows.drop_columns([n for n in ("raw_file_id", "run_id") if n in rows.column_names])
        shown = [name for name in rows.column_names if rows[name].null_count < rows.num_rows]
        listed = rows.select(shown).slice(0, SHOWN).to_pylist()
        print_table(shown, [[str(value) for value in row.values()] for row in listed])
        if rows.num_rows > SHOWN:
            typer.echo(f"{rows.num_rows - SHOWN:,} more; --json shows all")
    if entry.released_at is None:
        typer.echo(
            f"Mend the cause, then: thalweg quarantine retry {entry.id[:8]}; or, if it is not to "
            f"be mended: thalweg quarantine discard {entry.id[:8]}"
        )


@commands.command()
def retry(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of entries; all without.")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Try again after a fix: what is good now goes into the warehouse, the rest stays.

    Exit 1 if one could not be tried.

    Example: `thalweg quarantine retry`
    """
    from thalweg import quarantine

    settings = local_settings(data_dir)
    waiting = ids or [entry.id for entry in quarantine.list(settings)]
    told: dict[str, Any] = {}
    for id in waiting:
        try:
            done = quarantine.retry(id, settings)
            told[id] = done.as_dict()
            said, failed = str(done), False
        except (InvalidInput, NotFound) as error:  # the others may be good
            told[id] = {"error": str(error)}
            said, failed = f"stays: {error}", True
        for line in said.splitlines() if not json else ():
            typer.secho(f"{id[:8]}  {line}", fg="yellow" if failed else None, err=failed)
    if json:
        print_json(told)
    elif not waiting:
        typer.echo(NOTHING)
    if any("error" in each for each in told.values()):
        raise typer.Exit(1)


@commands.command()
def discard(
    ids: Annotated[list[str], typer.Argument(help="Ids of entries, or their beginnings.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Wait no longer for what never was true, or came in by another way; it stays stored.

    Example: `thalweg quarantine discard 5d0b5a0e`
    """
    from thalweg import quarantine

    settings = local_settings(data_dir)
    entries = [quarantine.discard(id, settings) for id in ids]
    if json:
        return print_json([asdict(entry) for entry in entries])
    for entry in entries:
        typer.echo(f"{entry.id[:8]}  {entry}")


def _cells(entry: Entry) -> list[Any]:
    state = "released: " if entry.released_at and not entry.is_discarded else ""
    return [
        entry.id[:8],
        entry.table or "(file)",
        f"{entry.count:,}" if entry.table else "",
        f"{entry.at:%Y-%m-%d}",
        f"{state}{entry.reason}",
    ]
