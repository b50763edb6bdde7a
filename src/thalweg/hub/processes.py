"""The processes of this hub, found by the mark in their environment, and how to end them.

A mark finds also those whose parent was killed, so that nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

import psutil

from thalweg import accounts
from thalweg.hub import state
from thalweg.settings import Settings

__all__ = ["LOGIN", "end", "label", "memory", "of_hub", "of_person"]

#: What is added to a web service's name to name the process that asks for the login before it.
LOGIN = "-login"


def of_hub(settings: Settings) -> dict[psutil.Process, dict[str, str]]:
    """Every process of this hub but this one, with its environment.

    What runs under an account of a person of this hub is of it, whatever mark it has put off.
    """
    mark, people = state.instance(settings), accounts.ids(settings)
    found = {}
    for process in psutil.process_iter():
        try:
            environ, account = process.environ(), process.uids().real
        except (psutil.Error, OSError):
            continue
        ours = environ.get("THALWEG_INSTANCE") == mark or account in people
        if ours and process.pid != os.getpid():
            found[process] = environ
    return found


def of_person(name: str, settings: Settings) -> list[psutil.Process]:
    """Those that work in a person's name: their server, what it started, all of their account."""
    account = accounts.find(name, settings)
    found = []
    for process, environ in of_hub(settings).items():
        with contextlib.suppress(psutil.Error):
            is_theirs = account is not None and process.uids().real == account.uid
            if is_theirs or environ.get("JUPYTERHUB_USER") == name:
                found.append(process)
    return found


def label(environ: dict[str, str]) -> str:
    """What a process is part of: a service's name, `lab:USER`, `dask`, or a child of the stack."""
    if "DASK_GATEWAY_CLUSTER_NAME" in environ:
        return "dask clusters"
    if user := environ.get("JUPYTERHUB_USER"):
        return f"lab:{user}"
    service = environ.get("JUPYTERHUB_SERVICE_NAME", "").removesuffix(LOGIN)
    return service or environ.get("THALWEG_PART", "other")


def memory(processes: Iterable[psutil.Process]) -> int:
    """Memory of these processes in bytes: proportional share where the system tells, else RSS."""
    total = 0
    for process in processes:
        try:
            full = process.memory_full_info()
            total += getattr(full, "pss", 0) or full.rss
        except psutil.Error:
            continue
    return total


def end(processes: Iterable[psutil.Process], patience: float = 10) -> None:
    """Ask the processes to stop; after `patience` seconds, stop them."""
    asked = list(processes)
    for process in asked:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(asked, timeout=patience)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=5)


def _quietly(act: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        act()
