"""Commands: catalog."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.cli.common import (
    DataDir,
    Json,
    coloured,
    local_settings,
    print_json,
    print_table,
    working,
)

if TYPE_CHECKING:
    from thalweg.catalog import Entry

__all__ = ["register"]

commands = typer.Typer(
    help="Data by name: what there is, and whether it opens.", no_args_is_help=True
)
COLOURS = {"ok": "green", "unreachable": "yellow", "broken": "red"}


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.add_typer(commands, name="catalog")


@commands.command("list")
def list_entries(json: Json = False, data_dir: DataDir = None) -> None:
    """List the entries of the catalogue.

    Example: `thalweg catalog list`
    """
    from thalweg import catalog

    local_settings(data_dir)
    found = list(catalog.entries())
    if json:
        return print_json([_described(entry) for entry in found])
    print_table(
        ["entry", "what it is", "licence"], [[e.name, e.description, e.licence] for e in found]
    )
    typer.echo('Read one: thalweg.open_catalog()["warehouse"]["metrics"].read()')


@commands.command()
def show(
    name: Annotated[str, typer.Argument(help="Full name of an entry, as warehouse.metrics.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show an entry: what it is, where and when its data are, its columns, and how to read it.

    Example: `thalweg catalog show warehouse.metrics`
    """
    from thalweg import catalog

    local_settings(data_dir)
    entry = catalog.entry(name)
    extent, columns = entry.reader.extent(), _columns(entry.reader.discover())
    described = _described(entry)
    if json:
        return print_json(described | {"extent": asdict(extent), "columns": columns})
    if extent.box:
        west, south, east, north = extent.box
        described["where now"] = f"{west:.4g} to {east:.4g} °E, {south:.4g} to {north:.4g} °N"
    if extent.times:
        described["when now"] = " to ".join(f"{time:%Y-%m-%d %H:%M}" for time in extent.times)
    for key, value in described.items():
        typer.echo(f"{key.replace('_', ' '):16} {value}")
    if columns:
        print_table(["column", "type"], [list(item) for item in columns.items()])
    path = "".join(f'["{part}"]' for part in name.split("."))
    typer.echo(f"Read it: thalweg.open_catalog(){path}.read()")


@commands.command()
def check(
    strict: Annotated[bool, typer.Option(help="Fail for unreachable public data too.")] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Open every entry; exit 1 if one is broken.

    Public data that cannot be reached, as without a network, is reported and no failure.

    Example: `thalweg catalog check --strict`
    """
    from thalweg import catalog

    local_settings(data_dir)
    with working("opening every entry"), ThreadPoolExecutor(4) as pool:
        checks = list(pool.map(catalog.check, catalog.entries()))
    if json:
        print_json([asdict(each) for each in checks])
    else:
        rows = [
            [c.name, coloured(c.state, COLOURS[c.state]), f"{c.seconds:.2f} s", c.message]
            for c in checks
        ]
        print_table(["entry", "state", "took", "seen"], rows)
    excused = {"ok"} if strict else {"ok", "unreachable"}
    if any(c.state not in (excused if c.is_public else {"ok"}) for c in checks):
        raise typer.Exit(1)


@commands.command()
def stac(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; made if it is not there.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Write the raw files and gridded data as a static STAC catalogue, checked and self-contained.

    Example: `thalweg catalog stac stac`
    """
    from thalweg import stac as library

    with working("writing"):
        catalogue = library.write(folder, local_settings(data_dir))
    counts = {each.id: len(each.get_item_links()) for each in catalogue.get_collections()}
    if json:
        return print_json({"catalogue": folder / "catalog.json", "items": counts})
    print_table(["collection", "items"], [[name, f"{n:,}"] for name, n in counts.items()])
    typer.echo(f"Open it: pystac_client.Client.open({str(folder / 'catalog.json')!r})")


def _described(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in vars(entry).items() if key != "reader"}


def _columns(found: Any) -> dict[str, str]:
    """Name and type of each column of a table or variable of a dataset."""
    if hasattr(found, "schema"):
        return {field.name: str(field.type) for field in found.schema}
    return {str(name): f"{each.dtype} {each.dims}" for name, each in found.variables.items()}
