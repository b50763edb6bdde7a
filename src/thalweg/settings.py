"""Every setting of Thalweg, each with a default and a line of help.

Order of precedence: default < `thalweg.toml` in the home folder < environment (`THALWEG_` + name
in capitals) < command-line flag. Nothing reads the environment at import: call `load`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from thalweg.errors import InvalidInput, nearest

__all__ = ["Settings", "describe", "load"]


#: Names after THALWEG_ that a run or the hub sets for its children; they are no settings.
NOT_SETTINGS = frozenset({"dask_token_file", "instance", "notes", "part", "pinned", "run_id"})

SMTP = re.compile(r"smtps?://([^\s/@]+@)?([\w.-]+|\[[\da-f:]+\])(:\d{1,5})?/?")
CHOICES = {
    "launcher": ("local", "kubernetes"),
    "compute": ("local", "dask", "ray"),
    "accounts": ("auto", "own", "shared"),
}


def setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """The settings of one process, read once by `load` and then passed on."""

    home: Path = setting(Path(), "folder of the clone: catalogs/, pipelines/, hub-config/ …")
    data_dir: Path = setting(Path(".thalweg"), "folder of all state of the local hub")
    host: str = setting("127.0.0.1", "address on which the hub's one public port listens")
    port: int = setting(8000, "the hub's one public port")
    accounts: str = setting(
        "auto",
        "accounts of the system that users' servers run under: own (one each), shared (all that of "
        "the hub), auto (own where the hub is started as root)",
    )
    idle_timeout: int = setting(3600, "seconds without activity after which a Lab server is culled")
    dask_idle_timeout: int = setting(1800, "seconds without work after which a Dask cluster stops")
    schedules: bool = setting(False, "start the schedules of the pipelines by themselves")
    schedules_url: str = setting(
        "", "where a person's server asks the hub for schedules; empty: straight in the database"
    )
    launcher: str = setting(
        "local", "what scheduled runs are: local (processes) or kubernetes (jobs)"
    )
    image: str = setting("", "image of the runs' pods on Kubernetes")
    namespace: str = setting("thalweg", "namespace of the runs' pods on Kubernetes")
    compute: str = setting(
        "local",
        "what thalweg.compute.cluster() gives: local, dask or ray; a run has its pipeline's",
    )
    sample: bool = setting(True, "load the embedded sample at the first start")
    database_url: str = setting(
        "", "SQLAlchemy URL of the metadata database; empty: SQLite in data_dir"
    )
    raw_uri: str = setting("s3://raw", "where raw files land")
    arrivals_url: str = setting(
        "", "queue (SQS) that tells of files in raw's inbox/; empty: the inbox is listed"
    )
    runs_uri: str = setting("s3://runs", "where executed notebooks are kept")
    smtp_url: str = setting(
        "", "mail server of notices: smtp://HOST:PORT or smtps://USER:PASSWORD@HOST:PORT"
    )
    mail_from: str = setting("thalweg@localhost", "address from which notices are sent")
    gridded_uri: str = setting("s3://gridded", "where repositories of fields are kept")
    own_uri: str = setting(
        "", "where a person's server keeps what nobody else opens; empty: there is no such place"
    )
    warehouse: str = setting("thalweg", "name of the PyIceberg catalogue that holds the tables")
    public_endpoint: str = setting(
        "https://s3.us-east-1.amazonaws.com", "S3 endpoint of the public open-data buckets"
    )
    nwm_uri: str = setting("s3://noaa-nwm-pds", "bucket of National Water Model output")
    usgs_url: str = setting(
        "https://waterservices.usgs.gov/nwis", "base URL of the USGS water services"
    )
    usgs_api_url: str = setting(
        "https://api.waterdata.usgs.gov/ogcapi/v1", "base URL of the USGS Water Data API"
    )
    ifs_url: str = setting(
        "https://data.ecmwf.int/forecasts", "base URL of ECMWF's open data, or of a mirror"
    )
    gfs_url: str = setting(
        "https://noaa-gfs-bdp-pds.s3.amazonaws.com", "base URL of NOAA's GFS output"
    )
    nam_url: str = setting("https://noaa-nam-pds.s3.amazonaws.com", "base URL of NOAA's NAM output")
    cds_url: str = setting(
        "https://cds.climate.copernicus.eu/api", "Copernicus' Climate Data Store (ERA5)"
    )
    ads_url: str = setting(
        "https://ads.atmosphere.copernicus.eu/api", "Copernicus' Atmosphere Data Store (CAMS)"
    )

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the metadata database."""
        return self.database_url or f"sqlite:///{self.data_dir / 'thalweg.db'}"


def load(environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """Read the settings: defaults < thalweg.toml < environment < flags that are not None.

    Raises
    ------
    InvalidInput
        An unknown key (the nearest known one is named) or a value of the wrong type.
    """
    environ = os.environ if environ is None else environ
    known = {f.name: f for f in fields(Settings)}
    home = Path(flags.get("home") or environ.get("THALWEG_HOME") or default_home()).resolve()
    values: dict[str, Any] = {}
    for origin, items in _layers(home, environ, flags):
        for name, value in items.items():
            if name not in known:
                raise InvalidInput(f"unknown setting {name!r} in {origin}{nearest(name, known)}")
            values[name] = _convert(known[name], value, origin)
    values["home"] = home
    # A path on the command line is relative to where it is typed, any other to the clone.
    start = Path.cwd() if flags.get("data_dir") else home
    data_dir = start / Path(values.get("data_dir", Settings.data_dir)).expanduser()
    values["data_dir"] = Path(os.path.normpath(data_dir))
    for name, choices in CHOICES.items():
        if name in values and values[name] not in choices:
            hint = nearest(values[name], choices)
            raise InvalidInput(f"setting {name!r}: unknown value {values[name]!r}{hint}")
    if (smtp := values.get("smtp_url")) and not SMTP.fullmatch(smtp):  # it may hold a password
        raise InvalidInput(
            "setting 'smtp_url': expected smtp://HOST:PORT or smtps://USER:PASSWORD@HOST:PORT, "
            "with spaces, / and @ of user and password as %20, %2F and %40"
        )
    if not 0 < values.get("port", Settings.port) < 65536:
        raise InvalidInput(f"setting 'port': expected 1 to 65535, got {values['port']}")
    return Settings(**values)


def describe() -> list[tuple[str, str, str]]:
    """Name, default and help of every setting, for the documentation and `thalweg settings`."""
    return [(f.name, str(f.default), f.metadata["help"]) for f in fields(Settings)]


def default_home() -> Path:
    """The working directory if it is a clone of Thalweg, else the clone that holds this file."""
    clone = Path(__file__).resolve().parents[2]
    return Path.cwd() if (Path.cwd() / "hub-config").is_dir() else clone


def _layers(
    home: Path, environ: Mapping[str, str], flags: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    file = home / "thalweg.toml"
    try:
        from_file = tomllib.loads(file.read_text()) if file.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{file} is not valid TOML: {error}") from None
    prefix = "THALWEG_"
    from_environ = {k[len(prefix) :].lower(): v for k, v in environ.items() if k.startswith(prefix)}
    for name in NOT_SETTINGS:
        from_environ.pop(name, None)
    given = {k: v for k, v in flags.items() if v is not None}
    return [(str(file), from_file), ("the environment", from_environ), ("the flags", given)]


def _convert(known: Field[Any], value: Any, origin: str) -> Any:
    kind: Any = type(known.default)
    try:
        if kind is bool:
            return _boolean(value)
        if kind is int and isinstance(value, bool):
            raise ValueError
        return kind(value) if not issubclass(kind, Path) else Path(value)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"setting {known.name!r} in {origin}: expected {kind.__name__}, got {value!r}"
        ) from None


def _boolean(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if str(value).lower() not in words:
        raise ValueError
    return words[str(value).lower()]
