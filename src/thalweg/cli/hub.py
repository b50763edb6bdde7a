"""Commands that bring the local hub up and down, and tell how it is."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from thalweg import settings as settings_module
from thalweg.cli.common import (
    DataDir,
    Json,
    coloured,
    local_settings,
    print_json,
    print_table,
)
from thalweg.errors import NotFound, Unavailable, nearest
from thalweg.private import without_secrets
from thalweg.settings import Settings

__all__ = ["register"]

console = Console(highlight=False)
PASSWORD = re.compile(r"(://[^:/?#]*:).*@")
user = typer.Typer(help="The people of the local hub.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    for command in (up, down, status, logs, doctor, settings, migrate):
        app.command()(command)
    user.command("add")(user_add)
    user.command("password")(user_password)
    user.command("list")(user_list)
    user.command("remove")(user_remove)
    app.add_typer(user, name="user")


def up(
    port: Annotated[int | None, typer.Option(help="The public port. [default: 8000]")] = None,
    data_dir: DataDir = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is up.")] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Bring the whole hub up: object store, JupyterHub, scheduler, dashboards, Dask Gateway.

    Examples:

        thalweg up

        thalweg up --port 8080 --detach

        thalweg up --data-dir /scratch/hub
    """
    from thalweg.hub import stack

    settings = settings_module.load(port=port, data_dir=data_dir)
    if detach:
        _up_detached(settings)
    else:
        hub = stack.Stack(settings, progress=_step)
        hub.run(lambda password: _ready(settings, password, no_open), _next_steps)
        console.print("The hub is down; all data is kept.")
    if detach and not no_open:
        _open_browser(settings)


def down(data_dir: DataDir = None) -> None:
    """Stop the hub and every process that it started; data is kept."""
    from thalweg.hub import stack

    settings = settings_module.load(data_dir=data_dir)
    with console.status("Stopping"):
        ran = stack.down(settings)
    console.print("The hub is down; all data is kept." if ran else "The hub was not running.")


def status(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Tell how each part of the hub is: state, address, pid, memory.

    Exit code 0 when all is well, 3 when the hub is down or a part of it is.
    """
    from thalweg.hub import stack
    from thalweg.hub import status as hub_status

    settings = settings_module.load(data_dir=data_dir)
    parts = hub_status.parts(settings)
    if as_json:
        up = any(p["state"] != "down" for p in parts)
        print_json({"up": up, "why_shared": stack.why_shared(settings), "parts": parts})
    else:
        colours = {"up": "green", "on demand": "cyan", "down": "red"}
        rows = [
            [
                part["name"],
                coloured(part["state"], colours[part["state"]]),
                str(part["pid"] or ""),
                f"{part['memory'] / 1e6:.0f} MB" if part["memory"] else "",
                part["url"] or "",
            ]
            for part in parts
        ]
        total = sum(part["memory"] for part in parts)
        rows.append(["all", "", "", f"{total / 1e6:.0f} MB", ""])
        print_table(["part", "state", "pid", "memory", "address"], rows)
        if all(part["state"] == "down" for part in parts):
            console.print("The hub is down: `thalweg up` starts it.")
        console.print(_accounts(settings))
    if any(part["state"] == "down" for part in parts):
        raise typer.Exit(3)


def logs(
    service: Annotated[str | None, typer.Argument(help="A part of the hub; all when none.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many last lines.")] = 50,
    data_dir: DataDir = None,
) -> None:
    """Print the last lines of the logs.

    Examples:

        thalweg logs

        thalweg logs hub -n 200
    """
    folder = settings_module.load(data_dir=data_dir).data_dir / "logs"
    files = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if not files:
        raise NotFound(f"no logs in {folder}: `thalweg up` starts the hub")
    if service and service not in files:
        raise NotFound(f"no log of {service!r}{nearest(service, files)}")
    for name, path in files.items():
        if service in (None, name):
            for line in path.read_text(errors="replace").splitlines()[-lines:]:
                typer.echo(line if service else f"{name} | {line}")


def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Look at the machine: Python, packages, port, disk, memory; say what to do about each."""
    from thalweg.hub import doctor as hub_doctor

    findings = hub_doctor.examine(settings_module.load(data_dir=data_dir))
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
            console.print(f"{mark} {finding.about}: {finding.found}")
            if not finding.ok:
                console.print(f"  → {finding.advice}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def settings(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Print every setting: its value, and what it means."""
    values = settings_module.load(data_dir=data_dir)
    shown = {
        name: _without_password(str(getattr(values, name)))
        for name, _, _ in settings_module.describe()
    }
    described = [
        {"name": name, "value": shown[name], "default": default, "help": text}
        for name, default, text in settings_module.describe()
    ]
    if as_json:
        print_json(described)
        return
    rows = [[each["name"], each["value"], each["help"]] for each in described]
    print_table(["setting", "value", "what it means"], rows)
    console.print("Set one in thalweg.toml, or as THALWEG_NAME in the environment.")


def migrate(json: Json = False, data_dir: DataDir = None) -> None:
    """Bring the metadata database and the warehouse to the newest schema; `thalweg up` does so.

    Example: `thalweg migrate`
    """
    values = local_settings(data_dir)
    from thalweg import database, warehouse

    version, steps = database.migrate(values), warehouse.migrate(values)
    if json:
        return print_json({"database": version, "warehouse": steps})
    for step in steps:
        console.print(step)
    console.print("The metadata database and the warehouse have the newest schema.")


def user_add(
    name: Annotated[str, typer.Argument(help="The name to log in with.")],
    group: Annotated[
        list[str] | None,
        typer.Option("--group", "-g", help="A group of hub-config/groups.yaml; repeatable."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Add a user; the generated password is printed once.

    Examples:

        thalweg user add ada

        thalweg user add grace --group stewards --group researchers
    """
    from thalweg.hub import users

    settings = settings_module.load(data_dir=data_dir)
    password = users.add(settings, name, group or ["researchers"])
    console.print(f"User [bold]{name}[/] added to {', '.join(group or ['researchers'])}.")
    console.print(f"Password, printed this once: [bold]{password}[/]")


def user_password(
    name: Annotated[str, typer.Argument(help="The user.")],
    ask: Annotated[bool, typer.Option("--ask", help="Type it, rather than generate it.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Give a user a new password, generated and printed once (or asked for with --ask)."""
    from thalweg.hub import users

    typed = typer.prompt("New password", hide_input=True, confirmation_prompt=True) if ask else None
    password = users.set_password(settings_module.load(data_dir=data_dir), name, typed)
    console.print(f"The password of [bold]{name}[/] is changed.")
    if not ask:
        console.print(f"Password, printed this once: [bold]{password}[/]")


def user_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the users and their groups."""
    from thalweg.hub import users

    people = users.names(settings_module.load(data_dir=data_dir))
    if as_json:
        print_json(people)
        return
    print_table(["user", "groups"], [[name, ", ".join(groups)] for name, groups in people.items()])


def user_remove(
    name: Annotated[str, typer.Argument(help="The user.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Remove a user: nobody works in their name any more; what they had is kept.

    Their server, runs and tokens end, their schedules are paused, an account of the system that
    they had is locked, and their folder is moved aside: where, is told.

    Example: `thalweg user remove ada`
    """
    from thalweg.hub import removal

    if not yes:
        typer.confirm(f"End all that {name} has at work, and their login?", abort=True, err=True)
    settings = local_settings(data_dir)
    done = removal.remove(name, settings)
    if as_json:
        return print_json(done.as_dict())
    console.print(f"User [bold]{name}[/] is removed; their runs stay on record.")
    if done.schedules:
        console.print(
            f"Paused: {', '.join(done.schedules)}; `thalweg schedule remove` forgets one."
        )
    if done.account:
        console.print(f"The account {done.account} is locked, and owns what they had.")
    typer.echo(f"Their folder: {done.home or 'there was none'}")


@contextlib.contextmanager
def _step(title: str) -> Iterator[None]:
    """Show a step while it runs, and how long it took."""
    start = time.monotonic()
    with console.status(title):
        yield
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - start:.1f} s[/]")


def _ready(settings: Settings, password: str | None, no_open: bool) -> None:
    """What a person reads when the hub is up."""
    from thalweg.hub import stack

    console.print(f"\nThe hub is up: [bold]{stack.address(settings)}[/]")
    kept = settings.data_dir / "secrets" / "admin-password"
    if password:
        console.print(f"Log in as [bold]admin[/] with the password [bold]{password}[/]")
        console.print(f"[dim]It is not printed again; it is kept in {kept}[/]")
    else:
        console.print(f"[dim]The first password of the user admin is in {kept}[/]")
    console.print(_accounts(settings))
    sys.stdout.flush()
    if sys.stdin.isatty() and not no_open:
        _open_browser(settings)


def _accounts(settings: Settings) -> str:
    """In whose name users' programs run."""
    from thalweg.hub import stack

    if why := stack.why_shared(settings):
        return f"All users share one account, and can read each other's files and keys: {why}."
    return "Each user has an account of this machine of their own."


def _next_steps(loaded: bool) -> None:
    if not loaded:
        console.print(
            "The sample's data is not there yet: `thalweg runs list` tells how far it is."
        )
    console.print("Next: `thalweg status`, `thalweg user add NAME`; Ctrl-C or `thalweg down` ends.")
    sys.stdout.flush()


def _open_browser(settings: Settings) -> None:
    from thalweg.hub import stack

    with contextlib.suppress(webbrowser.Error):
        webbrowser.open(stack.address(settings))


def _up_detached(settings: Settings) -> None:
    """Start `thalweg up` in a session of its own, and show what it says until it is up."""
    from thalweg.hub import state

    log = state.folder(settings, "logs") / "up.log"
    command = [sys.executable, "-m", "thalweg", "up", "--no-open"]
    command += [f"--port={settings.port}", f"--data-dir={settings.data_dir}"]
    log.write_bytes(b"")
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for line in _follow(log, process):
            if line.startswith("thalweg: "):
                raise Unavailable(line.removeprefix("thalweg: "))
            typer.echo(line)
            if line.startswith("Next:"):
                return
        raise Unavailable(f"the hub did not come up: see {log}")
    finally:
        _forget_password(log)


def _without_password(value: str) -> str:
    """A setting as it may be shown: of an address, without what lets in."""
    return PASSWORD.sub(r"\1***@", without_secrets(value)) if "://" in value else value


def _follow(log: Path, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """The lines of a file that another process writes, until that process ends."""
    with log.open() as file:
        pending = ""
        while True:
            piece = file.readline()
            pending += piece
            if pending.endswith("\n"):
                yield pending.rstrip("\n")
                pending = ""
            elif not piece and process.poll() is not None:
                return
            elif not piece:
                time.sleep(0.1)


def _forget_password(log: Path) -> None:
    """The password was shown; it does not stay in a log."""
    kept = [line for line in log.read_text().splitlines() if not line.startswith("Log in as")]
    with log.open("r+") as file:
        file.write("\n".join(kept) + "\n")
        file.truncate()
