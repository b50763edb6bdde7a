"""Run a hub service with a log of its own: `python -m thalweg.hub.service NAME COMMAND …`.

It waits until the databases are up to date, then becomes the command (exec), so that the hub
supervises the command itself.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

__all__ = ["DATABASES_READY", "open_log"]

#: A file of the data folder that is there while the databases are up to date.
DATABASES_READY = "databases.ready"

ROTATE_AT = 10 * 1024 * 1024


def open_log(data_dir: Path, name: str) -> int:
    """A descriptor that appends to `logs/NAME.log`; a log over 10 MB is put aside first."""
    folder = data_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{name}.log"
    if path.exists() and path.stat().st_size > ROTATE_AT:
        path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


if __name__ == "__main__":
    name, *command = sys.argv[1:]
    data_dir = Path(os.environ["THALWEG_DATA_DIR"])
    log = open_log(data_dir, name)
    os.dup2(log, 1)
    os.dup2(log, 2)
    while not (data_dir / DATABASES_READY).exists():
        time.sleep(0.05)
    os.execvp(command[0], command)  # noqa: S606
