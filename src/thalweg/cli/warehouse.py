"""Commands: the warehouse's upkeep, and SQL over its tables."""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.cli.common import (
    DataDir,
    Json,
    coloured,
    local_settings,
    pairs,
    print_json,
    print_table,
)
from thalweg.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa

    from thalweg.warehouse import Upkeep

__all__ = ["register"]

commands = typer.Typer(
    help="The tables: their versions, their states, their upkeep.", no_args_is_help=True
)
SHOWN = 50  # rows of an answer on the screen
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what there is to do.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.add_typer(commands, name="warehouse")
    app.command()(sql)


@commands.command()
def migrate(dry_run: DryRun = False, json: Json = False, data_dir: DataDir = None) -> None:
    """Bring the tables to the newest version, forwards only; rows are kept.

    Example: `thalweg warehouse migrate --dry-run`
    """
    from thalweg import warehouse

    settings = local_settings(data_dir)
    steps = warehouse.plan(settings) if dry_run else warehouse.migrate(settings)
    if json:
        return print_json(steps)
    for step in steps:
        typer.echo(step)
    if not steps:
        typer.echo("The tables are of the newest version.")


@commands.command()
def maintain(
    table: Annotated[str | None, typer.Argument(help="Name of a table; all by default.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; else it is only told.")] = False,
    older_than: Annotated[
        str, typer.Option(help="Age that states and unused files must have to go: 7d, 12h.")
    ] = "7d",
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Join small files, end old states, remove files that no state refers to.

    Without --apply it only tells what there is to do.

    Examples:

        thalweg warehouse maintain

        thalweg warehouse maintain primary_timeseries --older-than 30d --apply
    """
    from thalweg import warehouse

    settings = local_settings(data_dir)
    age = _age(older_than)
    done = warehouse.maintain(table, older_than=age, dry_run=not apply, settings=settings)
    if json:
        return print_json([asdict(each) for each in done])
    head = ["table", "files", "MB", "states", "unused files", "MB"]
    print_table(head, [_line(each) for each in done])
    if not apply:
        for each in done:
            for path in each.orphans:
                typer.echo(f"unused: {path}")
        typer.echo("Nothing was done. Do it: add --apply")


@commands.command()
def snapshots(
    table: Annotated[str, typer.Argument(help="Name of a table.", show_default=False)],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List the states of a table that can still be read, oldest first.

    Example: `thalweg warehouse snapshots metrics`
    """
    from thalweg import warehouse

    found = warehouse.snapshots(table, local_settings(data_dir))
    if json:
        return print_json([asdict(each) for each in found])
    rows = [
        [str(each.id), f"{each.at:%Y-%m-%d %H:%M:%S}", each.operation, f"+{each.added:,}",
         f"-{each.removed:,}", f"{each.rows:,}", (each.run_id or "")[-12:]]
        for each in found
    ]  # fmt: skip
    print_table(["snapshot", "at, UTC", "by", "added", "removed", "rows", "run"], rows)
    typer.echo(f'Read one: thalweg.warehouse.read("{table}", snapshot_id=…)')


@commands.command()
def freshness(json: Json = False, data_dir: DataDir = None) -> None:
    """Tell how old the newest time of each configuration is; exit 1 if one is older than it may be.

    Example: `thalweg warehouse freshness --json`
    """
    from thalweg.warehouse import contracts

    found = contracts.freshness(settings=local_settings(data_dir))
    if json:
        print_json([asdict(each) for each in found])
    else:
        rows = [
            [each.configuration, each.table, f"{each.newest:%Y-%m-%d %H:%M}" if each.newest else "",
             f"{each.allowed / dt.timedelta(hours=1):g} h",
             coloured("stale", "red") if each.is_stale else coloured("fresh", "green")]
            for each in found
        ]  # fmt: skip
        print_table(["configuration", "table", "newest, UTC", "may be old", "is"], rows)
    if any(each.is_stale for each in found):
        raise typer.Exit(1)


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT in DuckDB's SQL.", show_default=False)],
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", "-p", metavar="NAME=VALUE", help="Value of $NAME, as text; repeatable."
        ),
    ] = None,
    at: Annotated[
        dt.datetime | None,
        typer.Option(help="Read the tables as they were at this time, UTC.", show_default=False),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, all rows.")] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Ask the tables of the warehouse, and the view joined_timeseries, in SQL.

    Examples:

        thalweg sql "select location_id, max(value) from primary_timeseries group by all"

        thalweg sql "select * from locations where id = $id" -p id=usgs-03171000 --json
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    from thalweg import warehouse

    settings = local_settings(data_dir)
    moment = at.replace(tzinfo=dt.UTC) if at and not at.tzinfo else at
    rows = warehouse.sql(query, pairs(parameter), settings, at=moment)
    rows = _in_hex(rows)
    if csv:
        try:
            arrow_csv.write_csv(rows, sys.stdout.buffer)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise InvalidInput(f"--csv: {error}; cast it, as in column::VARCHAR") from None
    elif json:
        print_json(rows.to_pylist())
    else:
        shown = rows.slice(0, SHOWN).to_pylist()
        print_table(rows.column_names, [[_cell(each) for each in row.values()] for row in shown])
        if rows.num_rows > SHOWN:
            typer.echo(f"{SHOWN} of {rows.num_rows:,} rows; --csv or --json prints all")


def _in_hex(rows: pa.Table) -> pa.Table:
    """The rows with bytes, such as geometries, as text."""
    import pyarrow as pa

    for i, field in enumerate(rows.schema):
        if pa.types.is_binary(field.type):
            texts = [None if value is None else value.hex() for value in rows[i].to_pylist()]
            rows = rows.set_column(i, field.name, pa.array(texts, pa.string()))
    return rows


def _line(each: Upkeep) -> list[str]:
    """A row of the table: what was before and what is after, where it differs."""

    def change(before: Any, after: Any) -> str:
        return f"{before} → {after}" if before != after else f"{after}"

    return [
        each.table,
        change(each.files_before, each.files_after),
        change(_megabytes(each.bytes_before), _megabytes(each.bytes_after)),
        change(each.snapshots_before, each.snapshots_after),
        f"{len(each.orphans)}",
        _megabytes(each.orphan_bytes),
    ]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _cell(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}".removesuffix(":00")
    return "" if value is None else str(value)


def _age(text: str) -> dt.timedelta:
    import pandas as pd

    try:
        return pd.Timedelta(text).to_pytimedelta()
    except (ValueError, AttributeError):  # "nat" is a time that is none
        raise InvalidInput(f"--older-than {text}: expected an age, such as 7d or 12h") from None
