"""A channel file of the National Water Model: which one it is, and the rows that are in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from thalweg.errors import InvalidInput
from thalweg.raw import RawFile
from thalweg.sources._common import SIX_HOURLY, VARIABLE
from thalweg.sources._series import series, utc

__all__ = [
    "CONFIGURATIONS",
    "RETROSPECTIVE",
    "Configuration",
    "configuration",
    "rows",
    "times",
    "version",
]


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


def _analysis(name: str, title: str, cycles: Iterable[int], steps: Iterable[int]) -> Configuration:
    file = f"nwm.t{{cycle:02d}}z.{name}.channel_rt.tm{{step:02d}}.conus.nc"
    return Configuration(name, title, file, tuple(cycles), tuple(steps), forecast=False)


def _forecast(
    name: str, title: str, cycles: Iterable[int], steps: Iterable[int], member: int | None = None
) -> Configuration:
    part = f"channel_rt_{member}" if member else "channel_rt"
    file = f"nwm.t{{cycle:02d}}z.{name}.{part}.f{{step:03d}}.conus.nc"
    said = str(member) if member else None
    return Configuration(name, title, file, tuple(cycles), tuple(steps), said)


# By folder of the bucket. Steps are those of all versions together: NWM 2.0 gave the medium range
# every 3 hours; what is not there is not fetched.
CONFIGURATIONS = {
    "analysis_assim": _analysis(
        "analysis_assim", "analysis and assimilation, at its own time", range(24), [0]
    ),
    "analysis_assim_extend": _analysis(
        "analysis_assim_extend", "extended analysis, the 28 h to 16:00 UTC", [16], range(28)
    ),
    "short_range": _forecast("short_range", "short range, 18 h", range(24), range(1, 19)),
    **{
        f"medium_range_mem{member}": _forecast(
            "medium_range", "medium range, 240 h", SIX_HOURLY,
            range(1, 241 if member == 1 else 205), member,
        )
        for member in range(1, 8)
    },
    "medium_range_blend": _forecast(
        "medium_range_blend", "medium range, 240 h, forced by the National Blend of Models",
        SIX_HOURLY, range(1, 241),
    ),
    "medium_range_no_da": _forecast(
        "medium_range_no_da", "medium range, 240 h, without assimilation",
        SIX_HOURLY, range(3, 241, 3),
    ),
    **{
        f"long_range_mem{member}": _forecast(
            "long_range", "long range, 30 days", SIX_HOURLY, range(6, 721, 6), member
        )
        for member in range(1, 5)
    },
}  # fmt: skip
RETROSPECTIVE = Configuration("retrospective", "retrospective simulation", "", (), (), None, False)
# WRF-Hydro's version, for files that do not state the model's.
VERSION_OF_CODE = {"v5.3": "30", "v5.2": "21", "v5.1": "20"}
TIME_UNITS = re.compile(
    r"(second|minute|hour)s since (\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d))?"
    r"(?: ?(?:UTC|Z|\+00:?00))?"
)


def configuration(file: RawFile) -> Configuration:
    """The configuration of a file, by its name."""
    if file.dataset == RETROSPECTIVE.name:
        return RETROSPECTIVE
    name = file.url.rsplit("/", 1)[-1]
    for chosen in CONFIGURATIONS.values():
        if re.fullmatch(re.sub(r"\\{.*?\\}", r"\\d+", re.escape(chosen.file)), name):
            return chosen
    raise InvalidInput(
        f"{file.url} is not named like a channel file of {', '.join(CONFIGURATIONS)}"
    )


def version(content: Any, file: RawFile) -> str:
    """`nwm30` for NWM 3.0: by NWM_version_number, else by the version of the code."""
    stated = _attribute(content, "NWM_version_number")
    if match := re.fullmatch(r"v?(\d+)\.(\d+)", stated):
        return f"nwm{match[1]}{match[2]}"
    code = _attribute(content, "code_version")
    for prefix, number in VERSION_OF_CODE.items():
        if code.startswith(prefix):
            return f"nwm{number}"
    raise InvalidInput(
        f"{file.url} does not say which National Water Model made it: NWM_version_number is "
        f"{stated!r}, code_version {code!r}"
    )


def _streamflow(content: Any, reaches: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Numbers of the wanted reaches, and their m^3/s by time and reach; NaN where is none."""
    packed = content["streamflow"]
    feature_id = content["feature_id"][()]
    wanted = np.isin(feature_id, reaches)
    units = _attribute(packed, "units")
    if units not in ("m3 s-1", "m^3/s"):
        raise InvalidInput(f"streamflow is in {units!r}, expected 'm3 s-1'")
    stored = packed[()].reshape(-1, len(feature_id))[:, wanted]
    fills = [_number(packed, name, np.nan) for name in ("_FillValue", "missing_value")]
    # Kept in float32, 0.01 is 0.0099999998; its shortest decimal is what was meant.
    scale, offset = (
        float(str(np.float32(_number(packed, name, default))))
        for name, default in (("scale_factor", 1.0), ("add_offset", 0.0))
    )
    return feature_id[wanted], np.where(np.isin(stored, fills), np.nan, stored * scale + offset)


def rows(
    content: Any, reaches: np.ndarray[Any, Any], chosen: Configuration, made_by: str, file: RawFile
) -> tuple[pa.Table, int]:
    """Rows of a file in order of time and reach, and how many values are missing."""
    ids, values = _streamflow(content, reaches)
    present = np.isfinite(values)
    names = pa.array([f"{made_by}-{i}" for i in ids], pa.string())
    constant = {
        "reference_time": utc(times(content["reference_time"])[0]) if chosen.forecast else None,
        "unit_name": "m^3/s",
        "configuration_name": f"{made_by}_{chosen.name}",
        "variable_name": VARIABLE,
        "member": chosen.member,
        "raw_file_id": file.id,
    }
    found = series(
        constant,
        value=values[present],
        value_time=np.broadcast_to(times(content["time"])[:, None], values.shape)[present],
        location_id=names.take(pa.array(np.nonzero(present)[1])),
    )
    return found, int((~present).sum())


def times(variable: Any) -> np.ndarray[Any, Any]:
    """Times of a variable as datetime64, UTC."""
    units = _attribute(variable, "units")
    if not (said := TIME_UNITS.fullmatch(units)):
        raise InvalidInput(f"time in {units!r}, expected hours or minutes since a time in UTC")
    since = np.datetime64(f"{said[2]}T{said[3] or '00:00:00'}", "us")
    return since + np.asarray(variable).astype(f"timedelta64[{said[1][0]}]")


def _attribute(holder: Any, name: str) -> str:
    value = holder.attrs.get(name, b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(holder: Any, name: str, default: float | None = None) -> Any:
    value = holder.attrs.get(name)
    return default if value is None else np.ravel(value)[0]
