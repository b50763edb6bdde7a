"""In whose name a scheduled notebook runs: its environment and its working directory.

The run starts with an environment made anew, of what is named here, and not with that of the
scheduler, which holds the tokens and passwords of the hub. It has no token of the hub at all. Where
people have accounts of the system (`thalweg.accounts`), it runs under theirs.
"""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import fields
from pathlib import Path

from thalweg import accounts
from thalweg.accounts import Account
from thalweg.private import instance
from thalweg.settings import Settings

__all__ = ["account", "environment", "home", "kernel"]

#: What a run takes over: where programs, libraries and the data are, and how to get out.
KEPT = re.compile(
    r"PATH|PYTHONPATH|LD_LIBRARY_PATH|DYLD_\w+|VIRTUAL_ENV|CONDA_\w+|LANG|LC_\w+|TZ|TMPDIR"
    r"|PYICEBERG_HOME|AWS_(?!SECRET|SESSION|ACCESS|CONTAINER_AUTHORIZATION_TOKEN$)\w+"
    r"|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|THALWEG_IMAGE"
    r"|OMP_NUM_THREADS|RAY_\w+(?<!TOKEN)"
)
#: Settings that hold a password which a notebook does not need.
SECRET = {"smtp_url"}


def account(person: str | None, settings: Settings) -> Account | None:
    """The account under which this person's runs go; None for that of the scheduler.

    Unavailable where there should be one and cannot.
    """
    return (
        None if not person or accounts.why_shared(settings) else accounts.ensure(person, settings)
    )


def environment(person: str, settings: Settings) -> dict[str, str]:
    """The environment of a person's run, without anything of others."""
    kept = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
    given = {
        f"THALWEG_{each.name.upper()}": str(getattr(settings, each.name))
        for each in fields(settings)
        if each.name not in SECRET
    }
    about = {
        "HOME": str(home(person, settings) or Path.home()),
        "USER": person,
        "LOGNAME": person,
        "THALWEG_INSTANCE": instance(settings),
        "THALWEG_PART": "scheduler",
    }
    theirs = account(person, settings)
    return kept | given | about | (accounts.environment(theirs, settings) if theirs else {})


def kernel(run_id: str, person: str | None, settings: Settings) -> dict[str, str]:
    """How to speak to the kernel of a run, as traits of Jupyter's manager.

    By default kernels listen on TCP, where all accounts of a machine may hear what they print.
    """
    if theirs := account(person, settings):
        file = theirs.runtime / f"run-{run_id}.json"
        return {"transport": "ipc", "connection_file": str(file)}
    return {}


def home(person: str, settings: Settings) -> Path | None:
    """The person's folder in the hub, or, of this account, its own; None where there is none."""
    if theirs := account(person, settings):
        return theirs.home
    in_hub = accounts.home(person, settings)
    if in_hub.is_dir():
        return in_hub
    mine = pwd.getpwuid(os.getuid())
    return Path(mine.pw_dir) if mine.pw_name == person else None
