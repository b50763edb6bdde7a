"""A run: `thalweg run load_sample` beside Papermill's own command on the same notebook."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.hubs import Thalweg, clean_environment
from benchmarks.report import Aim, Table, aims, spread
from thalweg.hub.environment import data_environment
from thalweg.pipelines import specification

__all__ = ["PACKAGES", "REPEATS", "measure", "tables"]

REPEATS = 7
PACKAGES = ("papermill", "nbclient", "ipykernel", "pyiceberg")
PIPELINE = "load_sample"
OURS, PAPERMILL = f"`thalweg run {PIPELINE}`", "`papermill`"


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of each command, in turns, while the hub is up and idle; a first turn is not kept."""
    with (
        tempfile.TemporaryDirectory(prefix="thalweg-bench-") as temporary,
        Thalweg(Path(temporary, "thalweg")) as hub,
    ):
        hub.until(lambda: hub.says("Next:"))  # the sample is loaded: no run changes anything
        notebook = specification.get(PIPELINE, hub.settings).notebook_path
        output, data_dir = f"{temporary}/executed.ipynb", f"--data-dir={hub.settings.data_dir}"
        environ = clean_environment()
        commands = {
            PAPERMILL: (
                ["-m", "papermill", str(notebook), output, f"--cwd={temporary}"],
                environ | data_environment(hub.settings),
            ),
            OURS: (["-m", "thalweg", "run", PIPELINE, data_dir], environ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats + 1):
            for name, (command, environ) in commands.items():
                seconds[name].append(_seconds([sys.executable, *command], environ))
                _until_rendered(hub.settings.data_dir)
    return {name: each[1:] for name, each in seconds.items()}


def tables(seconds: dict[str, list[float]]) -> list[Table]:
    """The aim, and the times of both commands."""
    ours, papermill = (statistics.median(seconds[name]) for name in (OURS, PAPERMILL))
    lines = [
        [name, f"{len(each)}", spread(each), f"{statistics.median(each) / papermill:.2f}"]
        for name, each in seconds.items()
    ]
    head = ("command", "runs", "seconds, median (least to greatest)", "ratio")
    return [
        aims(Aim("what a run takes more than Papermill", 100 * (ours / papermill - 1), 10, " %")),
        Table("The sample loaded once more, which changes nothing", head, lines),
    ]


def _until_rendered(data_dir: Path) -> None:
    """Wait until the page of the run lies in the store, so that no turn has it for company."""
    while list((data_dir / "pages-due").glob("*-*")):
        time.sleep(0.1)
    time.sleep(1)


def _seconds(command: list[str], environ: dict[str, str]) -> float:
    begin = time.monotonic()
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    seconds = time.monotonic() - begin
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    if "thalweg" in command and "nothing has changed" not in done.stdout:
        raise RuntimeError(f"the run was to change nothing:\n{done.stdout}")
    return seconds
