"""Lab servers and Dask clusters under the account of who started them (`thalweg.accounts`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dask_gateway_server.backends.local import LocalBackend  # type: ignore[import-untyped]
from jupyterhub.spawner import LocalProcessSpawner

from thalweg import accounts
from thalweg import settings as settings_module
from thalweg.accounts import Account
from thalweg.hub import environment

__all__ = ["AccountBackend", "AccountSpawner", "fill_home"]

#: The tutorials, as on a cluster; what the person has changed is left as it is.
COPY = 'cp -rnL "$1"/[!.]* "$HOME"/ || true'
MIGRATE = "from thalweg import database; database.migrate()"


class AccountSpawner(LocalProcessSpawner):  # type: ignore[misc]
    """JupyterHub's own spawner of local processes, for names that are not those of accounts."""

    @property
    def account(self) -> Account:
        return accounts.ensure(self.user.name, settings_module.load())

    def make_preexec_fn(self, name: str) -> Callable[[], None]:
        made: Callable[[], None] = super().make_preexec_fn(self.account.name)
        return made

    def user_env(self, env: dict[str, str]) -> dict[str, str]:
        return env | environment.of_person(self.account, settings_module.load())


def fill_home(spawner: AccountSpawner) -> None:
    """Give the person's folder the tutorials, and bring their own record up to date; as they."""
    notebooks = settings_module.load().home / "notebooks"
    around = spawner.get_env() | {"THALWEG_PART": f"lab:{spawner.user.name}"}
    theirs = {"env": around, "cwd": spawner.account.home, **accounts.as_them(spawner.account)}
    subprocess.run(["/bin/sh", "-c", COPY, "sh", str(notebooks)], check=True, **theirs)
    # Nobody waits for it.
    subprocess.Popen(["nice", sys.executable, "-c", MIGRATE], start_new_session=True, **theirs)


class AccountBackend(LocalBackend):  # type: ignore[misc]
    """Dask Gateway's own backend of local processes, for names that are not those of accounts."""

    def make_preexec_fn(self, cluster: Any) -> Callable[[], None]:
        account = accounts.ensure(cluster.username, settings_module.load())
        folder = cluster.state["workdir"]

        def become() -> None:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            os.chdir(folder)

        return become

    def set_file_permissions(self, paths: list[str], username: str) -> None:
        """Hand over the cluster's folder, the first of `paths`; the rest lies below it.

        Upstream's list holds the last paths letter by letter, `/` among them.
        """
        accounts.hand_over(Path(paths[0]), accounts.ensure(username, settings_module.load()))
