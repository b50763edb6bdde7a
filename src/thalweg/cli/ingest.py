"""Commands: ingest, quarantine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.cli.common import DataDir, Json, local_settings, print_json, print_table
from thalweg.errors import InvalidInput

if TYPE_CHECKING:
    from thalweg.quarantine import Admitted, Entry

__all__ = ["register"]

commands = typer.Typer(
    help="What could not be taken into the warehouse, and why.", no_args_is_help=True
)
Pairs = list[str] | None
SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.command()(ingest)
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
    data_dir: DataDir = None,
) -> None:
    """Bring files of your own into the warehouse; exit 1 if one cannot be read.

    A column that is not mapped has its own name in the file.

    Example: `thalweg ingest flow.csv --map value=discharge --set unit_name=ft^3/s --timezone UTC`
    """
    from functools import partial

    from thalweg import ingest as ingesting
    from thalweg.sources import table

    settings = local_settings(data_dir)
    layout = table.Layout(
        to, _pairs("--map", map), _pairs("--set", set), prefix, timezone, tuple(missing or ())
    )
    uris = [uri if "://" in uri else Path(uri).resolve().as_uri() for uri in files]
    landed = table.fetch(uris, dataset=dataset, settings=settings)
    loaded = ingesting.load(partial(table.read, layout=layout), landed, settings)
    _tell(loaded)


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
        return typer.echo("Nothing is in quarantine.")
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
        shown = [name for name in rows.column_names if rows[name].null_count < rows.num_rows]
        listed = rows.select(shown).slice(0, SHOWN).to_pylist()
        print_table(shown, [[str(value) for value in row.values()] for row in listed])
        if rows.num_rows > SHOWN:
            typer.echo(f"{rows.num_rows - SHOWN:,} more; --json shows all")


@commands.command()
def retry(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of entries; all without.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Try again after a fix: what is good now goes into the warehouse, the rest stays.

    Example: `thalweg quarantine retry`
    """
    from thalweg import quarantine

    settings = local_settings(data_dir)
    for id in ids or [entry.id for entry in quarantine.list(settings)]:
        try:
            typer.echo(str(quarantine.retry(id, settings)))
        except InvalidInput as error:  # the others may be good
            typer.secho(f"{id} stays: {error}", fg="yellow", err=True)


def _tell(loaded: Admitted) -> None:
    typer.echo(str(loaded))
    if any(entry.table is None for entry in loaded.quarantined):
        raise typer.Exit(1)


def _cells(entry: Entry) -> list[Any]:
    reason = f"(released) {entry.reason}" if entry.released_at else entry.reason
    return [
        entry.id[:8],
        entry.table or "(file)",
        f"{entry.count:,}",
        f"{entry.at:%Y-%m-%d}",
        reason,
    ]


def _pairs(option: str, given: Pairs) -> dict[str, str]:
    pairs = [item.partition("=") for item in given or ()]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise InvalidInput(f"{option} expects column=…, got {name + equals + value!r}")
    return {name: value for name, _, value in pairs}
