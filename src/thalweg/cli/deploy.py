"""Commands: the hub on AWS, from Terraform's files to the chart's; backup and restore anywhere."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
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
)

__all__ = ["register"]

commands = typer.Typer(
    help="Install, upgrade and look after the hub on AWS; back up and restore any hub.",
    no_args_is_help=True,
)
COLOURS = {"done": "green", "ok": "green", "to do": "yellow", "unknown": "yellow", "wrong": "red"}
Environment = Annotated[str, typer.Argument(help="A folder of terraform/environments.")]
Values = Annotated[
    list[Path] | None,
    typer.Option("--values", "-f", exists=True, dir_okay=False, help="As helm's; repeat it."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.add_typer(commands, name="deploy")


@commands.command()
def values(
    outputs: Annotated[
        typer.FileText,
        typer.Argument(help="What `terraform output -json` has written; - for stdin."),
    ],
) -> None:
    """Write the chart's values that Terraform's outputs give, as YAML.

    Example: `terraform output -json | thalweg deploy values - > aws.yaml`
    """
    import yaml

    from thalweg import deployment

    made = deployment.chart_values(deployment.outputs_of(outputs.read()))
    typer.echo(yaml.safe_dump(made, sort_keys=False), nl=False)


@commands.command()
def plan(
    environment: Environment,
    what: Annotated[str, typer.Argument(help="install, upgrade, rollback or restore.")] = "install",
    files: Values = None,
    json: Json = False,
) -> None:
    """Print the steps and commands in order, and what of it is there already; nothing is changed.

    AWS, the cluster and Terraform's state are asked, with your credentials.

    Examples:

        thalweg deploy plan dev

        thalweg deploy plan prod upgrade -f helm/thalweg/profiles/production.yaml -f our.yaml
    """
    from thalweg import deployment

    place = deployment.Place(environment, local_settings(), files or ())
    steps = []
    for number, step in enumerate(deployment.plan(what, place), start=1):
        steps.append(step)
        if not json:
            typer.secho(f"{number}. {step['title']}  ", nl=False, bold=True)
            typer.secho(step["state"], fg=COLOURS[step["state"]], nl=False)
            typer.echo(f"  {step['seen']}" if step["seen"] else "")
            for command in step["commands"] if step["state"] != "done" else ():
                typer.echo(f"     $ {command}")
    if json:
        return print_json(steps)
    left = [step for step in steps if step["state"] != "done"]
    typer.echo(f"Next: {left[0]['title']}" if left else "All is done")


@commands.command()
def check(environment: Environment, files: Values = None, json: Json = False) -> None:
    """Check what an installation or upgrade needs; exit 1 if something is wrong.

    Tools and their versions, credentials and their account, quotas, Terraform's outputs, and the
    values: whether they fit the chart, agree with the outputs, and name one image that is there.

    Example: `thalweg deploy check prod -f aws.yaml -f our.yaml`
    """
    from thalweg import deployment

    place = deployment.Place(environment, local_settings(), files or ())
    found = list(deployment.check(place))
    if json:
        print_json([asdict(each) for each in found])
    else:
        words = {True: "ok", False: "wrong", None: "unknown"}
        rows = [[e.name, coloured(words[e.holds], COLOURS[words[e.holds]]), e.seen] for e in found]
        print_table(["check", "state", "seen"], rows)
    if any(each.holds is False for each in found):
        raise typer.Exit(1)
    if not json:
        typer.echo(f"Next: thalweg deploy plan {environment}")


@commands.command()
def backup(
    to: Annotated[str, typer.Argument(help="Folder or s3://BUCKET in which it gets its own.")],
    by_version: Annotated[
        bool, typer.Option("--by-version", help="Name objects by their bucket's versions.")
    ] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Back up the database, tables, objects, and on one machine people's files; the hub works on.

    In buckets that keep versions, as Terraform's do, `--by-version` lists objects instead of
    copying them.

    Examples:

        thalweg deploy backup /media/disk

        thalweg deploy backup s3://our-backups --by-version
    """
    from thalweg import backup as library

    with bars(hidden=json) as step:
        made = library.backup(
            to, by_version=by_version, settings=local_settings(data_dir), step=step
        )
    if json:
        return print_json(made)
    rows = sum(made["tables"].values())
    typer.echo(
        f"{sum(made['objects'].values()):,} objects ({made['bytes']:,} bytes), "
        f"{len(made['tables'])} tables ({rows:,} rows), the {made['database']} database and "
        f"{made['files']:,} files of people"
    )
    typer.echo(f"Into an empty hub: thalweg deploy restore {made['uri']}")


@commands.command()
def restore(
    uri: Annotated[str, typer.Argument(help="Folder that `thalweg deploy backup` has made.")],
    part: Annotated[
        list[str] | None,
        typer.Option(help="Only database, tables, objects or files; repeat it."),
    ] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Bring a backup back into an empty hub; what is not empty is refused, and nothing is changed.

    On one machine the hub is up (`THALWEG_SAMPLE=false thalweg up --data-dir NEW`), and nobody has
    logged in yet.

    Examples:

        thalweg deploy restore /media/disk/2026-11-22T060000Z --data-dir NEW

        thalweg deploy restore s3://our-backups/2026-11-22T060000Z --part tables
    """
    from thalweg import backup as library

    with bars(hidden=json) as step:
        done = library.restore(
            uri, part or library.PARTS, settings=local_settings(data_dir), step=step
        )
    if json:
        return print_json(done)
    for name, each in done.items():
        count = sum(each.values()) if isinstance(each, dict) else each
        typer.echo(f"{name:9} {count:,} {'rows' if name in ('database', 'tables') else name}")
    typer.echo("Look whether all is there: thalweg raw verify, and then: thalweg migrate")
