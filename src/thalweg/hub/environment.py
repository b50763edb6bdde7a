"""What every process of the local hub inherits to find the data.

The same names hold on AWS, where the chart sets them; code and catalogues never differ.
No secret stands in the environment: keys are in files that only their owner can read, found
by the default chains of the AWS SDK and of PyIceberg.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

import thalweg
from thalweg import accounts
from thalweg.accounts import Account
from thalweg.compute import local_ray
from thalweg.hub import object_store, state
from thalweg.settings import Settings

__all__ = [
    "dask_environment",
    "data_environment",
    "lab_environment",
    "of_person",
    "service_environment",
]

WEBHOOK = re.compile(r"""\bwebhook["']?:\s*["']?([A-Z][A-Z0-9_]*)""")


def data_environment(settings: Settings) -> dict[str, str]:
    """Environment in which the library reads and writes the local hub's data.

    Writes the credential files (0600) that the environment points at.
    """
    port = state.ports(settings)
    s3_endpoint = f"http://127.0.0.1:{port['s3']}"
    access, secret = object_store.keys(settings)
    folder = state.folder(settings, "secrets", "clients")
    state.private_file(
        folder / "credentials",
        f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n",
    )
    state.private_file(folder / ".pyiceberg.yaml", _pyiceberg(settings, access, secret))
    return {
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYICEBERG_HOME": str(folder),
        "THALWEG_HOME": str(settings.home),
        "THALWEG_DATA_DIR": str(settings.data_dir),
        "THALWEG_DATABASE_URL": settings.database,
        "THALWEG_RAW_URI": settings.raw_uri,
        "THALWEG_RUNS_URI": settings.runs_uri,
        "THALWEG_GRIDDED_URI": settings.gridded_uri,
        "THALWEG_WAREHOUSE": settings.warehouse,
        "THALWEG_PUBLIC_ENDPOINT": settings.public_endpoint,
        "THALWEG_NWM_URI": settings.nwm_uri,
        "THALWEG_USGS_URL": settings.usgs_url,
        "THALWEG_USGS_API_URL": settings.usgs_api_url,
        "THALWEG_IFS_URL": settings.ifs_url,
        "THALWEG_GFS_URL": settings.gfs_url,
        "THALWEG_NAM_URL": settings.nam_url,
        "THALWEG_CDS_URL": settings.cds_url,
        "THALWEG_ADS_URL": settings.ads_url,
        "HOLOVIEWSRC": str(Path(thalweg.__file__).parent / "pipelines" / "holoviews.rc"),
        "PATH": _path_with_environment(),
    }


def service_environment(settings: Settings) -> dict[str, str]:
    """Environment of the hub itself and of its services."""
    return data_environment(settings) | {
        "THALWEG_INSTANCE": state.instance(settings),
        "THALWEG_ACCOUNTS": "shared" if accounts.why_shared(settings) else "own",
        "THALWEG_SCHEDULES": str(settings.schedules),
        "THALWEG_SAMPLE": str(settings.sample),
        "THALWEG_HOST": settings.host,
        "THALWEG_PORT": str(settings.port),
        "THALWEG_IDLE_TIMEOUT": str(settings.idle_timeout),
        "THALWEG_DASK_IDLE_TIMEOUT": str(settings.dask_idle_timeout),
        "DAGSTER_HOME": str(state.folder(settings, "dagster")),
        "PYTHONUNBUFFERED": "1",
        "THALWEG_SMTP_URL": settings.smtp_url,
        "THALWEG_MAIL_FROM": settings.mail_from,
        **_webhooks(settings),
        **local_ray.ENVIRONMENT,
    }


def lab_environment(settings: Settings) -> dict[str, str]:
    """Environment of a Lab server: the data, and where Dask Gateway and schedules are."""
    port = state.ports(settings)
    return data_environment(settings) | {
        "THALWEG_INSTANCE": state.instance(settings),
        "JUPYTER_CONFIG_PATH": str(settings.home / "hub-config" / "singleuser"),
        "DASK_GATEWAY__ADDRESS": f"http://127.0.0.1:{port['dask_gateway']}",
        "DASK_GATEWAY__PROXY_ADDRESS": f"gateway://127.0.0.1:{port['dask_gateway']}",
        "DASK_GATEWAY__PUBLIC_ADDRESS": "/user/{JUPYTERHUB_USER}/dask",
        "DASK_GATEWAY__AUTH__TYPE": "jupyterhub",
        "THALWEG_DASK_TOKEN_FILE": str(_dask_token_file(settings)),
        "THALWEG_SCHEDULES_URL": f"http://127.0.0.1:{port['schedules']}/services/schedules",
        **local_ray.ENVIRONMENT,  # also where a notebook uses Ray itself
    }


def dask_environment(settings: Settings) -> dict[str, str]:
    """Environment of Dask's schedulers and workers: the data, and a guard on their web pages."""
    return data_environment(settings) | {
        "THALWEG_INSTANCE": state.instance(settings),
        "THALWEG_DASK_TOKEN_FILE": str(_dask_token_file(settings)),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "thalweg.compute.guard",
    }


def of_person(account: Account, settings: Settings) -> dict[str, str]:
    """What a person's processes have otherwise; writes their token for the pages of clusters.

    With a token of their own they cannot open those of others. The folder is theirs, so the file
    is written as they.
    """
    around = accounts.environment(account, settings)
    token = state.secret(settings, f"dask-dashboard-token-{accounts.safe(account.person)}")
    write = 'umask 077; cat > "$1.new" && mv -f "$1.new" "$1"'
    command = ["/bin/sh", "-c", write, "sh", around["THALWEG_DASK_TOKEN_FILE"]]
    subprocess.run(command, input=token.encode(), check=True, **accounts.as_them(account))
    return around


def _webhooks(settings: Settings) -> dict[str, str]:
    """The variables that pipelines name for URLs of webhooks, as far as this process has them.

    The words alone are looked at: to read pipelines costs the start half a second.
    """
    files = (settings.home / "pipelines").glob("*/pipeline.yaml")
    said = (file.read_text(errors="replace") for file in files)
    names = {name for text in said for name in WEBHOOK.findall(text)}
    return {name: os.environ[name] for name in names & os.environ.keys()}


def _dask_token_file(settings: Settings) -> Path:
    state.secret(settings, "dask-dashboard-token")
    return settings.data_dir / "secrets" / "dask-dashboard-token"


def _pyiceberg(settings: Settings, access: str, secret: str) -> str:
    catalogue = object_store.catalogue(settings)
    keys = {
        "type": "rest",
        "oauth2-server-uri": f"{catalogue['uri']}/v1/oauth/tokens",
        "credential": f"{access}:{secret}",
    }
    return yaml.safe_dump({"catalog": {settings.warehouse: catalogue | keys}})


def _path_with_environment() -> str:
    """PATH with the folder of this Python first, so that its commands are the ones found."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
