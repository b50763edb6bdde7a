"""Streamflow of NOAA's National Water Model, from files laid out as in NOAA's open bucket.

One file holds one time of 2.7 million reaches; the warehouse gets the reaches of the crosswalk, as
`nwm30-{feature_id}` of the configuration `nwm30_analysis_assim` and the like, in m^3/s. The
version (30 is 3.0) is what the file itself says.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from thalweg import raw, storage
from thalweg.errors import InvalidInput, nearest
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources._common import (
    TIME,
    VARIABLE,
    Moment,
    Progress,
    RemoteObject,
    fetch_objects,
    hours,
    netcdf,
    period,
    point,
    text,
)

__all__ = ["CONFIGURATIONS", "LICENCE", "TITLE", "crosswalk", "fetch", "land_route_link", "read"]

TITLE = "NOAA National Water Model, streamflow at river reaches"
LICENCE = "public domain (NOAA)"


@dataclass(frozen=True)
class Configuration:
    """How NOAA issues a configuration: hours of the day, lead times in hours, names."""

    name: str  # in the warehouse, behind the version
    title: str
    file: str  # name of a file, from cycle and step
    cycles: tuple[int, ...]
    steps: tuple[int, ...]
    member: str | None = None
    forecast: bool = True


# By folder of the bucket.
CONFIGURATIONS = {
    "analysis_assim": Configuration(
        name="analysis_assim",
        title="analysis and assimilation, at its own time",
        file="nwm.t{cycle:02d}z.analysis_assim.channel_rt.tm{step:02d}.conus.nc",
        cycles=tuple(range(24)),
        steps=(0,),
        forecast=False,
    ),
    "short_range": Configuration(
        name="short_range",
        title="short range, 18 h",
        file="nwm.t{cycle:02d}z.short_range.channel_rt.f{step:03d}.conus.nc",
        cycles=tuple(range(24)),
        steps=tuple(range(1, 19)),
    ),
    "medium_range_mem1": Configuration(
        name="medium_range",
        title="medium range, 240 h",
        file="nwm.t{cycle:02d}z.medium_range.channel_rt_1.f{step:03d}.conus.nc",
        cycles=(0, 6, 12, 18),
        steps=tuple(range(1, 241)),
        member="1",
    ),
}
SERIES = pa.schema(
    {
        "reference_time": TIME,
        "value_time": TIME,
        "value": pa.float64(),
        "unit_name": pa.string(),
        "location_id": pa.string(),
        "configuration_name": pa.string(),
        "variable_name": pa.string(),
        "member": pa.string(),
        "raw_file_id": pa.string(),
    }
)
CONFIGURATION_SCHEMA = pa.schema({n: pa.string() for n in ("name", "type", "description")})
# WRF-Hydro's version, for files that do not state the model's.
VERSION_OF_CODE = {"v5.3": "30", "v5.2": "21", "v5.1": "20"}


def fetch(
    start: Moment,
    end: Moment,
    *,
    configuration: str = "analysis_assim",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land the channel files of all cycles issued from `start` on and before `end`.

    Parameters
    ----------
    start, end
        Issue times; a date is its midnight, UTC.
    configuration
        `analysis_assim`, `short_range` or `medium_range_mem1`.

    Raises
    ------
    InvalidInput
        An unknown configuration, or an empty period.
    NotFound, Unavailable
        The bucket has none of the files, or does not answer.
    """
    settings = settings or load()
    if configuration not in CONFIGURATIONS:
        hint = nearest(configuration, CONFIGURATIONS)
        raise InvalidInput(f"unknown configuration {configuration!r}{hint}")
    chosen = CONFIGURATIONS[configuration]
    cycles = [hour for hour in hours(*period(start, end)) if hour.hour in chosen.cycles]
    wanted = [
        RemoteObject(
            f"{settings.nwm_uri}/nwm.{cycle:%Y%m%d}/{configuration}/"
            + chosen.file.format(cycle=cycle.hour, step=step),
            *[cycle + dt.timedelta(hours=step if chosen.forecast else -step)] * 2,
        )
        for cycle in cycles
        for step in chosen.steps
    ]
    return fetch_objects("nwm", configuration, wanted, "nc", settings, progress)


def read(files: Iterable[RawFile], crosswalk: pa.Table) -> dict[str, pa.Table]:
    """Rows of `secondary_timeseries` and `configurations` for the reaches of the crosswalk.

    Parameters
    ----------
    crosswalk
        Table with `secondary_location_id`, of which the ids `nwm…-{feature_id}` count.

    Raises
    ------
    InvalidInput
        A file is damaged or of another kind, or the crosswalk has no reach of its version.
    """
    reaches = _reaches(crosswalk)
    parts = [SERIES.empty_table()]
    used = {}
    for file in files:
        chosen = _configuration(file)
        with netcdf(raw.read(file), f"raw file {file.id} from {file.url}") as content:
            version = _version(content, file)
            if version not in reaches:
                raise InvalidInput(
                    f"{file.url} is of {version}, but the crosswalk has no location "
                    f"'{version}-…'; add the crosswalk of this version first"
                )
            parts.append(_series(content, reaches[version], chosen, version, file))
        number = f"{version[3]}.{version[4:]}"
        used[f"{version}_{chosen.name}"] = f"National Water Model {number}, {chosen.title}"
    configurations = [
        {"name": name, "type": "secondary", "description": description}
        for name, description in used.items()
    ]
    return {
        "configurations": pa.Table.from_pylist(configurations, CONFIGURATION_SCHEMA),
        "secondary_timeseries": pa.concat_tables(parts),
    }


def land_route_link(uri: str, settings: Settings | None = None) -> RawFile:
    """Land a RouteLink.nc, which says which reach carries which gauge; `uri` is any fsspec URI."""
    settings = settings or load()
    with storage.translated(uri):
        public = uri.startswith("s3://")
        store = storage.public_filesystem(settings) if public else storage.filesystem(uri)
        content = store.cat_file(uri)
    return raw.land("nwm", "route_link", content, extension="nc", url=uri, settings=settings)


def crosswalk(route_link: bytes, version: str = "nwm30") -> tuple[pa.Table, pa.Table]:
    """Gauges of a RouteLink.nc, and the reach of each.

    Parameters
    ----------
    route_link
        The file; of its variables `gages`, `link`, `lon`, `lat` (degrees) are used.
    version
        Prefix of the reaches' ids. The ids of reaches are the same from NWM 2.1 to 3.0, so that
        a file of the one serves the other.

    Returns
    -------
    locations, location_crosswalks
        Rows for the tables of these names. A location has no name and lies at the midpoint of its
        reach: write it with `replace=False`, so that what USGS says of a gauge stays.
    """
    with netcdf(route_link, "RouteLink") as content:
        gauges = text(content["gages"][()])
        links = content["link"][()]
        longitude, latitude = content["lon"][()], content["lat"][()]
    # Some reaches carry gauges of others than USGS, under names that are not numbers.
    rows = [i for i, gauge in enumerate(gauges) if re.fullmatch(r"\d{8,15}", gauge)]
    ids = pa.array([f"usgs-{gauges[i]}" for i in rows], pa.string())
    points = [point(float(longitude[i]), float(latitude[i])) for i in rows]
    reaches = pa.array([f"{version}-{links[i]}" for i in rows], pa.string())
    locations = pa.table({"id": ids, "geometry": pa.array(points, pa.binary())})
    return locations, pa.table({"primary_location_id": ids, "secondary_location_id": reaches})


def _configuration(file: RawFile) -> Configuration:
    name = file.url.rsplit("/", 1)[-1]
    for chosen in CONFIGURATIONS.values():
        if re.fullmatch(re.sub(r"\\{.*?\\}", r"\\d+", re.escape(chosen.file)), name):
            return chosen
    raise InvalidInput(
        f"{file.url} is not named like a channel file of {', '.join(CONFIGURATIONS)}"
    )


def _version(content: Any, file: RawFile) -> str:
    """`nwm30` for NWM 3.0: by NWM_version_number, else by the version of the code."""
    stated = _attribute(content, "NWM_version_number")
    if match := re.fullmatch(r"v?(\d+)\.(\d+)", stated):
        return f"nwm{match[1]}{match[2]}"
    code = _attribute(content, "code_version")
    for prefix, version in VERSION_OF_CODE.items():
        if code.startswith(prefix):
            return f"nwm{version}"
    raise InvalidInput(
        f"{file.url} does not say which National Water Model made it: NWM_version_number is "
        f"{stated!r}, code_version {code!r}"
    )


def _reaches(crosswalk: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    """Reach ids of the crosswalk by version."""
    found: dict[str, set[int]] = {}
    for location in crosswalk["secondary_location_id"].to_pylist():
        if match := re.fullmatch(r"(nwm\d+)-(\d+)", location):
            found.setdefault(match[1], set()).add(int(match[2]))
    return {version: np.array(sorted(ids)) for version, ids in found.items()}


def _streamflow(content: Any, reaches: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Reach ids and m^3/s of the wanted reaches that have a value."""
    packed = content["streamflow"]
    feature_id = content["feature_id"][()]
    wanted = np.isin(feature_id, reaches)
    stored = packed[()][wanted]
    units = _attribute(packed, "units")
    if units not in ("m3 s-1", "m^3/s"):
        raise InvalidInput(f"streamflow is in {units!r}, expected 'm3 s-1'")
    present = ~np.isin(stored, [_number(packed, "_FillValue"), _number(packed, "missing_value")])
    # Kept in float32, 0.01 is 0.0099999998; its shortest decimal is what was meant.
    scale = float(str(_number(packed, "scale_factor", 1.0)))
    offset = float(str(_number(packed, "add_offset", 0.0)))
    return feature_id[wanted][present], stored[present] * scale + offset


def _series(
    content: Any,
    reaches: np.ndarray[Any, Any],
    chosen: Configuration,
    version: str,
    file: RawFile,
) -> pa.Table:
    ids, values = _streamflow(content, reaches)
    constant = {
        "reference_time": _time(content["reference_time"]) if chosen.forecast else None,
        "value_time": _time(content["time"]),
        "unit_name": "m^3/s",
        "configuration_name": f"{version}_{chosen.name}",
        "variable_name": VARIABLE,
        "member": chosen.member,
        "raw_file_id": file.id,
    }
    columns = {
        name: pa.repeat(pa.scalar(value, SERIES.field(name).type), len(ids))
        for name, value in constant.items()
    }
    columns["value"] = pa.array(values, pa.float64())
    columns["location_id"] = pa.array([f"{version}-{i}" for i in ids], pa.string())
    return pa.table(columns, schema=SERIES)


def _time(variable: Any) -> dt.datetime:
    units = _attribute(variable, "units")
    if not units.startswith("minutes since 1970-01-01"):
        raise InvalidInput(f"time in {units!r}, expected minutes since 1970-01-01 UTC")
    return dt.datetime.fromtimestamp(int(variable[0]) * 60, dt.UTC)


def _attribute(holder: Any, name: str) -> str:
    value = holder.attrs.get(name, b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(holder: Any, name: str, default: float | None = None) -> Any:
    value = holder.attrs.get(name)
    return default if value is None else np.ravel(value)[0]
