"""Commands: what ran, and what to do about it."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from thalweg.cli.common import (
    DataDir,
    Json,
    bars,
    coloured,
    counted,
    local_settings,
    print_json,
    print_table,
)
from thalweg.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from thalweg.pipelines.history import Run

__all__ = ["register"]

runs = typer.Typer(
    help="What ran, how it ended, what it read and wrote; doing it again.", no_args_is_help=True
)
State = Literal["running", "succeeded", "failed", "cancelled", "dead"]
COLOURS = {
    "succeeded": "green",
    "running": "yellow",
    "failed": "red",
    "cancelled": "blue",
    "dead": "bold red",
}
Id = Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or its end.")]
#: Longer than a run needs to end its kernel.
PATIENCE = 40.0


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.add_typer(runs, name="runs")


@runs.command("list")
def list_runs(
    pipeline: Annotated[str | None, typer.Option(help="Only runs of this pipeline.")] = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    partition: Annotated[str | None, typer.Option(help="Only those of this partition.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only those started since: 2024-09-26, now-6h, now-2d.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List the runs, the newest first; `dead` are those that nobody will try again.

    Example: `thalweg runs list --state dead --since now-2d`
    """
    from thalweg.pipelines import history

    found = history.find(
        pipeline, state, limit, local_settings(data_dir), partition=partition, since=_time(since)
    )
    if json:
        return print_json([each.as_dict() for each in found])
    rows = [
        [each.id[-12:], each.pipeline, each.partition or "",
         coloured(each.state, COLOURS[each.state]), f"{each.started_at:%Y-%m-%d %H:%M}",
         _seconds(each), _short(each.error or "")]
        for each in found
    ]  # fmt: skip
    head = ["run", "pipeline", "partition", "state", "started, UTC", "took", "why"]
    print_table(head, rows)
    typer.echo("Look into one: thalweg runs show RUN")


@runs.command("show")
def show_run(run_id: Id, json: Json = False, data_dir: DataDir = None) -> None:
    """Show a run: who, when, with which code and parameters, what it read and wrote.

    Example: `thalweg runs show 5e0a2b1c9d3f`
    """
    from thalweg.pipelines import history, report

    found = history.get(run_id, local_settings(data_dir))
    if json:
        return print_json(found.as_dict())
    about = found.as_dict()
    for key in (
        "id", "pipeline", "partition", "state", "error", "trigger", "user", "started_at",
        "duration", "attempt", "repeats",
    ):  # fmt: skip
        typer.echo(f"{key:12} {'' if about[key] is None else about[key]}")
    dirty = " (with changes)" if found.git_dirty else ""
    typer.echo(f"{'code':12} {found.git_commit}{dirty}, {found.environment}")
    typer.echo(f"{'parameters':12} {found.parameters}")
    typer.echo(f"{'memory':12} {report.size(found.peak_memory)} at most")
    typer.echo(f"{'notebook':12} {found.notebook_uri or 'not saved'}")
    if found.differences is not None:
        typer.echo(f"{'compared':12} {'; '.join(found.differences) or 'bit-identical'}")
    uses = [[u.direction, u.kind, u.name, u.version, counted(u.rows)] for u in found.uses]
    print_table(["did", "what", "name", "version", "rows"], uses)
    if found.state in ("failed", "dead", "cancelled"):
        typer.echo(f"Try again: {found.again}")
    elif found.html_uri:
        typer.echo(f"Read its notebook: thalweg runs open {found.id[-12:]}")


@runs.command("diff")
def diff_runs(
    first: Id,
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Id of another run, or its end.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Tell in what two runs differ: parameters, code, snapshots, rows, outputs of cells.

    Example: `thalweg runs diff 5e0a2b1c9d3f 7c11d0e2a4b5`
    """
    from thalweg.pipelines import history, report

    settings = local_settings(data_dir)
    one, other = (history.get(id, settings) for id in (first, second))
    differ = report.unlike(one, other)
    if json:
        return print_json({what: {"first": a, "second": b} for what, a, b in differ})
    if not differ:
        typer.echo("They do not differ: code, parameters, data and outputs are the same.")
        return None
    rows = [
        [what, "" if a is None else str(a), "" if b is None else str(b)] for what, a, b in differ
    ]
    print_table(["what", one.id[-12:], other.id[-12:]], rows)
    return None


@runs.command("open")
def open_run(
    run_id: Id,
    browser: Annotated[bool, typer.Option(help="Show it in a browser.")] = True,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Bring the executed notebook here, as HTML, and show it in a browser.

    Example: `thalweg runs open 5e0a2b1c9d3f --no-browser`
    """
    from thalweg.pipelines import history, pages
    from thalweg.private import folder, private_file

    settings = local_settings(data_dir)
    found = history.get(run_id, settings)
    page = folder(settings, "pages") / f"{found.id}.html"
    private_file(page, pages.read(found).decode())
    if json:
        print_json({"id": found.id, "uri": found.html_uri, "path": page})
    else:
        typer.echo(page)
    if browser and not json:
        typer.launch(page.as_uri())


@runs.command("rerun")
def rerun_run(run_id: Id, json: Json = False, data_dir: DataDir = None) -> None:
    """Repeat a run against the same files and snapshots; exit 1 if anything comes out differently.

    Nothing is written to the warehouse: what the run would write is compared with what it wrote.

    Example: `thalweg runs rerun 5e0a2b1c9d3f`
    """
    from thalweg.pipelines import run as runner

    done = _again(runner.rerun, run_id, json, data_dir)
    if json:
        print_json(done.as_dict())
    elif done.differences:
        for line in done.differences:
            typer.secho(line, fg="red")
        typer.echo(f"Compare them: thalweg runs diff {run_id} {done.id[-12:]}")
    else:
        typer.echo("bit-identical: rows and outputs are those of then")
    if done.differences:
        raise typer.Exit(1)


@runs.command("retry")
def retry_run(run_id: Id, json: Json = False, data_dir: DataDir = None) -> None:
    """Run again what failed, with the same parameters and partition.

    A success takes it out of the dead letters.

    Example: `thalweg runs retry 5e0a2b1c9d3f`
    """
    from thalweg.pipelines import run as runner

    done = _again(runner.retry, run_id, json, data_dir)
    if json:
        return print_json(done.as_dict())
    see = f"see: thalweg runs show {done.id[-12:]}"
    typer.echo(f"{done.pipeline} succeeded in {done.duration:.1f} s; {see}")
    return None


@runs.command("cancel")
def cancel_run(
    run_id: Id,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended.")] = True,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Stop a run, wherever it runs, or give up a dead letter.

    Example: `thalweg runs cancel 5e0a2b1c9d3f`
    """
    from thalweg.pipelines import history

    settings = local_settings(data_dir)
    found = history.cancel(run_id, settings)
    deadline = time.monotonic() + PATIENCE
    while wait and found.state == "running":
        if time.monotonic() > deadline:
            raise Unavailable(
                f"run {found.id} has not ended yet; it is marked as lost when its process is gone: "
                f"see `thalweg runs show {found.id[-12:]}`"
            )
        time.sleep(0.5)
        found = history.get(found.id, settings)
    if json:
        return print_json(found.as_dict())
    typer.echo(f"run {found.id} of {found.pipeline} is {found.state}")
    return None


@runs.command("export")
def export_run(
    run_id: Id,
    to: Annotated[
        Path | None, typer.Option(help="File to write. [default: RUN.crate.zip, or RUN.jsonl]")
    ] = None,
    format: Annotated[
        Literal["ro-crate", "openlineage"],
        typer.Option(help="A Workflow Run RO-Crate, or events a line each."),
    ] = "ro-crate",
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Write a run with all that is known of it to a file for others.

    Example: `thalweg runs export 5e0a2b1c9d3f --to run.zip`
    """
    import json as library

    from thalweg.pipelines import export, history

    settings = local_settings(data_dir)
    found = history.get(run_id, settings)
    if format == "ro-crate":
        path, content = to or Path(f"{found.id}.crate.zip"), export.crate(found, settings)
    else:
        lines = (library.dumps(event) + "\n" for event in export.openlineage(found, settings))
        path, content = to or Path(f"{found.id}.jsonl"), "".join(lines).encode()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}; give another --to") from None
    if json:
        return print_json({"id": found.id, "path": path, "bytes": len(content)})
    typer.echo(f"{path}: {len(content):,} bytes")
    return None


def _again(does: Any, run_id: str, json: bool, data_dir: Path | None) -> Run:
    """Run again with a bar; a failure's record is printed as JSON where that is asked for."""
    from thalweg.pipelines import run as runner

    settings = local_settings(data_dir)
    with bars(hidden=json) as step:
        cells = step(run_id)
        try:
            done: Run = does(run_id, settings, progress=lambda cell, total: cells(cell - 1, total))
        except runner.RunFailed as failed:
            if not json:
                raise
            print_json(failed.run.as_dict())
            raise typer.Exit(1) from None
    return done


def _time(since: str | None) -> dt.datetime | None:
    from thalweg.pipelines import values

    if since is None:
        return None
    try:
        time = dt.datetime.fromisoformat(values.convert("date", since))
    except ValueError as error:
        raise InvalidInput(f"--since: {error}") from None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _seconds(run: Run) -> str:
    return "" if run.duration is None else f"{run.duration:.1f} s"


def _short(text: str) -> str:
    first = text.partition("\n")[0]
    return first if len(first) <= 60 else f"{first[:59]}…"
