"""Commands: run pipelines, and look at them."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from thalweg.cli.common import (
    DataDir,
    Json,
    bars,
    counted,
    local_settings,
    pairs,
    print_json,
    print_table,
)
from thalweg.errors import InvalidInput

if TYPE_CHECKING:
    from thalweg.pipelines.backfill import Backfilled
    from thalweg.pipelines.history import Run

__all__ = ["register"]

pipelines = typer.Typer(help="The pipelines there are.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a pipeline.", show_default=False)]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Give it as often as needed."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.command()(run)
    app.command()(backfill)
    app.add_typer(pipelines, name="pipeline")


def run(
    name: Name,
    parameter: Parameters = None,
    partition: Annotated[
        str | None, typer.Option(help="Which partition, such as 2024-09-26.", show_default=False)
    ] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Run a pipeline now, here, and keep the record and the executed notebook.

    Examples:

        thalweg run load_sample

        thalweg run evaluate -p lead_time_bin=48 -p metrics=kge,nse

        thalweg run ingest_usgs -p sites=03171000 -p start=now-7d -p end=now

        thalweg run ingest_usgs --partition 2024-09-26
    """
    from thalweg.pipelines import run as runner

    try:
        with runner.executor() as process, bars(hidden=json) as step:
            settings = local_settings(data_dir)
            values = pairs(parameter)
            cells = step(name)
            done = runner.run(
                name, values, partition=partition, settings=settings, process=process,
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


def backfill(
    name: Name,
    partitions: Annotated[
        str,
        typer.Argument(
            metavar="FROM..TO",
            help="First and last partition, both included; either may be left out.",
        ),
    ],
    parameter: Parameters = None,
    again: Annotated[
        bool, typer.Option("--again", help="Run also what has succeeded before.")
    ] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Run the partitions of a pipeline that have not succeeded yet; exit 1 if one fails.

    Stop it at any time: the same command goes on where it was.

    Examples:

        thalweg backfill ingest_usgs 2024-09-25..2024-09-28

        thalweg backfill ingest_usgs 2024-09-25.. -p timeslices=yes --again
    """
    from thalweg.pipelines import backfill as backfilling

    first, dots, last = partitions.partition("..")
    with bars(hidden=json) as step:
        done = backfilling.backfill(
            name, first or None, (last if dots else first) or None, parameters=pairs(parameter),
            again=again, settings=local_settings(data_dir), progress=step(name),
        )  # fmt: skip
    if json:
        print_json(asdict(done))
    else:
        given = [word for each in parameter or () for word in ("-p", each)]
        _print_backfilled(done, shlex.join([partitions, *given, *["--again"] * again]))
    if done.failed or done.left:
        raise typer.Exit(1)


@pipelines.command("list")
def list_pipelines(json: Json = False, data_dir: DataDir = None) -> None:
    """List the pipelines in order of flow; one that is broken with what is wrong.

    Example: `thalweg pipeline list`
    """
    from thalweg.pipelines import flow, specification

    settings = local_settings(data_dir)
    found, broken = specification.all(settings).values(), specification.broken(settings)
    if json:
        wrong = [{"name": name, "error": why} for name, why in broken.items()]
        return print_json([*(each.model_dump(mode="json") for each in found), *wrong])
    rows = [[each.name, each.title, flow.when(each), ", ".join(each.needs)] for each in found]
    rows += [[name, "broken", "not until it is mended", ""] for name in broken]
    print_table(["pipeline", "what it is", "runs", "needs"], rows)
    for why in broken.values():
        typer.secho(why, fg="red", err=True)
    typer.echo("Run one: thalweg run NAME; its parameters: thalweg pipeline show NAME")


@pipelines.command("show")
def show_pipeline(name: Name, json: Json = False, data_dir: DataDir = None) -> None:
    """Show a pipeline: what it does, its parameters, when it runs.

    Example: `thalweg pipeline show ingest_usgs`
    """
    from thalweg.pipelines import flow, specification

    found = specification.get(name, local_settings(data_dir))
    if json:
        return print_json(found.model_dump(mode="json"))
    about = {
        "title": found.title,
        "owner": found.owner,
        "what": found.description,
        "runs": flow.when(found),
        "needs": ", ".join(found.needs),
        "timeout": f"{found.timeout} s",
        "retries": found.retries.attempts,
        "at once": f"{found.concurrency}; the same partition: {found.overlap}",
        "freshness": found.freshness or "no promise",
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
    if found.partitions:
        typer.echo(f"Fill in the past: thalweg backfill {name} FROM..TO")


@pipelines.command()
def validate(json: Json = False, data_dir: DataDir = None) -> None:
    """Check every pipeline.yaml and its notebook; exit 1 if one is wrong.

    Example: `thalweg pipeline validate`
    """
    from thalweg.pipelines import specification

    settings = local_settings(data_dir)
    good = dict.fromkeys(specification.all(settings))
    problems: dict[str, str | None] = good | specification.broken(settings)
    if json:
        print_json(problems)
    else:
        for name, problem in problems.items():
            typer.secho(f"{name}: {problem or 'ok'}", fg="red" if problem else None)
    if any(problems.values()):
        raise typer.Exit(1)


@pipelines.command()
def new(
    name: Annotated[str, typer.Argument(help="lower_case_with_underscores", show_default=False)],
    title: Annotated[str | None, typer.Option(help="What it is, in a few words.")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Make a new pipeline, which runs as it is, to be changed into one's own.

    Example: `thalweg pipeline new count_gauges --title "Gauges by state"`
    """
    from thalweg.pipelines import template

    folder = template.make(name, local_settings(data_dir), title)
    if json:
        return print_json({"name": name, "folder": folder})
    typer.echo(f"Made {folder}: change pipeline.yaml and notebook.ipynb there.")
    typer.echo(f"Check it: thalweg pipeline validate; run it: thalweg run {name}")


@pipelines.command()
def graph(
    name: Annotated[
        str | None, typer.Argument(help="Only what this one needs, and what needs it.")
    ] = None,
    mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print a Mermaid flowchart for a page.")
    ] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show which pipeline follows which, and when each runs.

    Example: `thalweg pipeline graph evaluate`
    """
    from rich.console import Console

    from thalweg.pipelines import flow, specification

    settings = local_settings(data_dir)
    broken = specification.broken(settings)
    if name in broken:
        raise InvalidInput(broken[name])
    found = flow.as_dict(specification.all(settings), name, broken)
    if json:
        return print_json(found)
    if mermaid:
        return typer.echo(flow.mermaid(found))
    Console().print(flow.tree(found))
    typer.echo("Look into one: thalweg pipeline show NAME")


@pipelines.command()
def schema() -> None:
    """Print the JSON schema of pipeline.yaml, by which editors complete and check it.

    Example: `thalweg pipeline schema > pipelines/pipeline.schema.json`
    """
    from thalweg.pipelines import specification

    typer.echo(specification.schema(), nl=False)


def _print_backfilled(done: Backfilled, arguments: str) -> None:
    said = {"failed": done.failed, "left out, as another run works on it": done.busy}
    rows = [
        [key, what, why.partition("\n")[0]]
        for what, each in said.items()
        for key, why in each.items()
    ]
    if rows:
        print_table(["partition", "", "why"], rows)
    counts = {
        "ran": len(done.succeeded), "succeeded before": len(done.done_before),
        "failed": len(done.failed), "busy": len(done.busy), "not begun": len(done.left),
    }  # fmt: skip
    typer.echo(f"{done.pipeline}: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n))
    if done.failed or done.left:
        again = f"thalweg backfill {done.pipeline} {arguments}"
        typer.echo(f"Why: thalweg runs list --pipeline {done.pipeline}; go on: {again}")


def _print_written(run: Run) -> None:
    written = [u for u in run.uses if u.direction == "wrote" and u.kind != "raw"]
    rows = [[u.name, counted(u.rows), u.version] for u in written]
    if rows:
        print_table(["wrote", "rows", "snapshot"], rows)
    else:
        typer.echo("nothing has changed in the warehouse")
