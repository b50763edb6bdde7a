"""Commands: run pipelines, and look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.cli.common import (
    DataDir,
    Json,
    bars,
    local_settings,
    pairs,
    print_json,
    print_table,
)
from thalweg.errors import ThalwegError

if TYPE_CHECKING:
    from thalweg.pipelines.history import Run
    from thalweg.pipelines.specification import Pipeline

__all__ = ["register"]

pipelines = typer.Typer(help="The pipelines there are.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a pipeline.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.command()(run)
    app.add_typer(pipelines, name="pipeline")


def run(
    name: Name,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Give it as often as needed."),
    ] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Run a pipeline now, here, and keep the record and the executed notebook.

    Examples:

        thalweg run load_sample

        thalweg run evaluate -p lead_time_bin=48 -p metrics=kge,nse

        thalweg run ingest_usgs -p sites=03171000 -p start=now-7d -p end=now
    """
    from thalweg.pipelines import run as runner

    try:
        with runner.executor() as process, bars(hidden=json) as step:
            settings = local_settings(data_dir)
            values = pairs(parameter)
            cells = step(name)
            done = runner.run(
                name, values, settings=settings, process=process,
                progress=lambda cell, total: cells(cell - 1, total),  # which starts now
            )  # fmt: skip
    except runner.RunFailed as failed:
        if json:
            print_json(failed.run.as_dict())
            raise typer.Exit(1) from None
        raise
    if json:
        return print_json(done.as_dict())
    _print_written(done)
    typer.echo(f"{name} succeeded in {done.duration:.1f} s; see: thalweg runs show {done.id[-12:]}")


@pipelines.command("list")
def list_pipelines(json: Json = False, data_dir: DataDir = None) -> None:
    """List the pipelines in order of flow.

    Example: `thalweg pipeline list`
    """
    from thalweg.pipelines import specification

    found = list(specification.all(local_settings(data_dir)).values())
    if json:
        return print_json([each.model_dump(mode="json") for each in found])
    rows = [[each.name, each.title, _when(each), ", ".join(each.needs)] for each in found]
    print_table(["pipeline", "what it is", "runs", "needs"], rows)
    typer.echo("Run one: thalweg run NAME; its parameters: thalweg pipeline show NAME")


@pipelines.command("show")
def show_pipeline(name: Name, json: Json = False, data_dir: DataDir = None) -> None:
    """Show a pipeline: what it does, its parameters, when it runs.

    Example: `thalweg pipeline show ingest_usgs`
    """
    from thalweg.pipelines import specification

    found = specification.get(name, local_settings(data_dir))
    if json:
        return print_json(found.model_dump(mode="json"))
    about = {
        "title": found.title,
        "owner": found.owner,
        "what": found.description,
        "runs": _when(found),
        "needs": ", ".join(found.needs),
        "timeout": f"{found.timeout} s",
        "retries": found.retries.attempts,
        "notebook": found.notebook_path,
    }
    for key, value in about.items():
        typer.echo(f"{key:12} {value}")
    rows = [
        [key, p.type, "needed" if p.required else str(p.default), p.description]
        for key, p in found.parameters.items()
    ]
    print_table(["parameter", "type", "default", "what it is"], rows)
    example = "".join(f" -p {key}=…" for key in list(found.parameters)[:1])
    typer.echo(f"Run it: thalweg run {name}{example}")


@pipelines.command()
def validate(json: Json = False, data_dir: DataDir = None) -> None:
    """Check every pipeline.yaml and its notebook; exit 1 if one is wrong.

    Example: `thalweg pipeline validate`
    """
    from thalweg.pipelines import specification

    settings = local_settings(data_dir)
    folders = sorted(file.parent for file in (settings.home / "pipelines").glob("*/pipeline.yaml"))
    problems = {folder.name: _problem(specification.load, folder) for folder in folders}
    if not any(problems.values()):
        problems["all together"] = _problem(specification.all, settings)
    if json:
        print_json(problems)
    else:
        for name, problem in problems.items():
            typer.secho(f"{name}: {problem or 'ok'}", fg="red" if problem else None)
    if any(problems.values()):
        raise typer.Exit(1)


def _problem(check: Any, argument: Any) -> str | None:
    try:
        check(argument)
    except ThalwegError as error:
        return str(error)
    return None


def _when(pipeline: Pipeline) -> str:
    if pipeline.schedule:
        return f"{pipeline.schedule.cron} ({pipeline.schedule.timezone})"
    return "after what it needs" if pipeline.needs else "on demand"


def _print_written(run: Run) -> None:
    written = [u for u in run.uses if (u.direction, u.kind) == ("wrote", "table")]
    rows = [[u.name, _count(u.rows), u.version] for u in written]
    if rows:
        print_table(["wrote", "rows", "snapshot"], rows)
    else:
        typer.echo("nothing has changed in the warehouse")


def _count(rows: int | None) -> str:
    return "" if rows is None else f"{rows:,}"
