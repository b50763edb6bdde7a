"""Commands: notebooks of one's own that run by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thalweg.cli.common import DataDir, Json, local_settings, pairs, print_json, print_table
from thalweg.errors import NotFound, nearest

if TYPE_CHECKING:
    from thalweg.pipelines.schedules import Scheduled
    from thalweg.settings import Settings

__all__ = ["register"]

schedule = typer.Typer(
    help="Notebooks of your own that run by themselves, whether you are there or not.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="As `thalweg schedule list` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.add_typer(schedule, name="schedule")


@schedule.command()
def add(
    notebook: Annotated[Path, typer.Argument(help="File of the notebook.", show_default=False)],
    cron: Annotated[
        str, typer.Option(help="Minute, hour, day, month, weekday.", show_default=False)
    ],
    timezone: Annotated[str, typer.Option(help="In which time zone.")] = "UTC",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Give it as often as needed."),
    ] = None,
    time_limit: Annotated[str, typer.Option(help="After this it is stopped: 90m, 6h.")] = "1h",
    name: Annotated[str | None, typer.Option(help="By default after the file.")] = None,
    title: Annotated[str | None, typer.Option(help="What it is, in a few words.")] = None,
    freshness: Annotated[
        str | None, typer.Option(help="It is late when its last success is older: 26h, 2d.")
    ] = None,
    notify: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="Who is told of failures.")
    ] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Schedule a notebook as it is saved now; the same name again replaces it.

    Examples:

        thalweg schedule add report.ipynb --cron "15 6 * * *" --timezone Europe/Berlin

        thalweg schedule add report.ipynb --cron "0 7 * * mon" -p days=30 --time-limit 2h
    """
    from thalweg.pipelines import schedules

    done = schedules.schedule(
        notebook, cron=cron, timezone=timezone, parameters=pairs(parameter), time_limit=time_limit,
        name=name, title=title, freshness=freshness, notify=notify or (),
        settings=local_settings(data_dir),
    )  # fmt: skip
    _tell(done, "is scheduled", json)


@schedule.command("list")
def list_schedules(json: Json = False, data_dir: DataDir = None) -> None:
    """List your schedules; an admin's are those of all.

    Example: `thalweg schedule list --json`
    """
    from thalweg.pipelines import schedules

    found = schedules.schedules(local_settings(data_dir)).values()
    if json:
        return print_json([each.as_dict() for each in found])
    if not found:
        typer.echo('None yet. Schedule one: thalweg schedule add NOTEBOOK --cron "15 6 * * *"')
        return None
    rows = [
        [each.name, f"{each.cron} ({each.timezone})", _when(each), _last(each)] for each in found
    ]
    print_table(["name", "cron", "next", "last run"], rows)
    typer.echo("Its runs: thalweg runs list --pipeline NAME")
    return None


@schedule.command()
def show(name: Name, json: Json = False, data_dir: DataDir = None) -> None:
    """Show a schedule: when it runs, with which parameters, how it ran last.

    Example: `thalweg schedule show report`
    """
    found = _get(name, local_settings(data_dir))
    if json:
        return print_json(found.as_dict())
    about = {
        "name": found.name,
        "title": found.title,
        "cron": f"{found.cron} ({found.timezone})",
        "next": _when(found),
        "parameters": found.parameters,
        "time limit": f"{found.time_limit} s",
        "copy of": found.saved_at,
        "last run": _last(found),
    }
    for key, value in about.items():
        typer.echo(f"{key:12} {value}")
    return None


@schedule.command()
def pause(name: Name, json: Json = False, data_dir: DataDir = None) -> None:
    """Let it run no more until it is resumed.

    Example: `thalweg schedule pause report`
    """
    _tell(_get(name, local_settings(data_dir)).pause(), "is paused", json)


@schedule.command()
def resume(name: Name, json: Json = False, data_dir: DataDir = None) -> None:
    """Let it run again, from now on.

    Example: `thalweg schedule resume report`
    """
    _tell(_get(name, local_settings(data_dir)).resume(), "runs again", json)


@schedule.command("run")
def run_schedule(name: Name, json: Json = False, data_dir: DataDir = None) -> None:
    """Have the hub's scheduler run it once, within half a minute or when its turn comes.

    Example: `thalweg schedule run report`
    """
    _tell(_get(name, local_settings(data_dir)).run(), "will run", json)


@schedule.command()
def remove(name: Name, json: Json = False, data_dir: DataDir = None) -> None:
    """Forget a schedule; what it has run stays on record.

    Example: `thalweg schedule remove report`
    """
    found = _get(name, local_settings(data_dir))
    found.remove()
    if json:
        return print_json({"name": found.name})
    typer.echo(f"{found.name} is removed; its runs: thalweg runs list --pipeline {found.name}")
    return None


def _get(name: str, settings: Settings) -> Scheduled:
    """The schedule of this name, or of the one name that ends so."""
    from thalweg.pipelines import schedules

    known = schedules.schedules(settings)
    found = [each for full, each in known.items() if name in (full, full.partition("/")[2])]
    if len(found) != 1:
        raise NotFound(f"no schedule {name!r}{nearest(name, known)}; expected OWNER/NAME")
    return found[0]


def _tell(done: Scheduled, what: str, json: bool) -> None:
    if json:
        return print_json(done.as_dict())
    typer.echo(f"{done.name} {what}; next: {_when(done)}")
    return None


def _when(found: Scheduled) -> str:
    return (found.next_at or f"paused by {found.paused_by}").replace("T", " ")


def _last(found: Scheduled) -> str:
    last = found.last_run
    return f"{last['state']} {last['started_at'][:16]} ({last['id'][-12:]})" if last else "never"
