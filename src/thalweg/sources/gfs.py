"""Forecasts of NOAA's GFS (global, 0.25°) and NAM (North America, 80 km), from NOAA's open buckets.

Some fields of each file are fetched, by the index that NOAA puts beside it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.errors import InvalidInput, nearest
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract, _grib
from thalweg.sources._common import SIX_HOURLY, Moment, Progress, hours, period
from thalweg.sources._messages import Part, RemoteGrib, fetch_messages

__all__ = ["CONTRACT", "FIELDS", "LICENCE", "MODELS", "TITLE", "fetch", "read"]

TITLE = "NOAA GFS and NAM, forecasts"
LICENCE = "public domain (NOAA)"
#: Temperature, dew point, precipitation: NOAA's names of variable and level.
FIELDS = ("TMP:2 m above ground", "DPT:2 m above ground", "APCP:surface")
LINE = re.compile(r"[\d.]+:(?P<offset>\d+):d=\d+:(?P<field>[^:]+:[^:]+):")


@dataclass(frozen=True)
class Model:
    """Where a model's files are below its bucket, and for which steps (hours)."""

    title: str
    setting: str
    file: str
    steps: tuple[int, ...]


MODELS = {
    "gfs": Model(
        title="NOAA Global Forecast System, 0.25°",
        setting="gfs_url",
        file="gfs.{issue:%Y%m%d/%H}/atmos/gfs.t{issue:%H}z.pgrb2.0p25.f{step:03d}",
        steps=(*range(121), *range(123, 385, 3)),
    ),
    "nam": Model(
        title="NOAA North American Mesoscale model, 80 km (grid 211)",
        setting="nam_url",
        file="nam.{issue:%Y%m%d}/nam.t{issue:%H}z.awp211{step:02d}.tm00.grib2",
        steps=tuple(range(0, 85, 3)),
    ),
}
CONTRACT = Contract(
    fields={"t2m": "K", "d2m": "K", "tp": "kg m-2", "u10": "m s-1", "v10": "m s-1", "t": "K"},
    configurations={f"{model}_forecast": dt.timedelta(hours=24) for model in MODELS},
)


def fetch(
    start: Moment,
    end: Moment,
    *,
    model: str = "gfs",
    fields: Sequence[str] = FIELDS,
    steps: Sequence[int] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land fields of all forecasts issued from `start` on and before `end`.

    Parameters
    ----------
    start, end
        Issue times (0, 6, 12, 18 h UTC); a date is its midnight.
    model
        `gfs` or `nam`.
    fields
        Variable and level as NOAA's index has them: `"TMP:2 m above ground"`.
    steps
        Lead times in hours, all by default.

    Raises
    ------
    InvalidInput
        An unknown model, a period in which none is issued, or a step that there is not.
    NotFound, Unavailable
        None of the files is there, or the server does not answer.
    """
    settings = settings or load()
    if model not in MODELS:
        raise InvalidInput(f"unknown model {model!r}{nearest(model, MODELS)}")
    chosen = MODELS[model]
    if wrong := set(steps or ()) - set(chosen.steps):
        raise InvalidInput(f"{model} has no step of {min(wrong)} h")
    base = getattr(settings, chosen.setting)
    wanted = [
        RemoteGrib(url, f"{url}.idx", issue + dt.timedelta(hours=step))
        for issue in hours(*period(start, end), SIX_HOURLY, model)
        for step in (steps or chosen.steps)
        for url in [f"{base}/{chosen.file.format(issue=issue, step=step)}"]
    ]

    def choose(index: str) -> list[Part]:
        return _chosen(index, set(fields))

    return fetch_messages("gfs", model, wanted, choose, settings, progress)


def _about(files: Sequence[RawFile]) -> dict[str, str]:
    """Attributes of the datasets of these files, which are of one model."""
    models = {file.dataset for file in files}
    if len(models) > 1:
        raise InvalidInput(f"files of {' and '.join(sorted(models))}: each has a grid of its own")
    model = next(iter(models), "gfs")
    return {
        "title": MODELS[model].title if model in MODELS else TITLE,
        "institution": "NOAA National Centers for Environmental Prediction",
        "license": LICENCE,
        "configuration_name": f"{model}_forecast",
    }


read = _grib.reader(CONTRACT, _about)


def _chosen(index: str, fields: set[str]) -> list[Part]:
    """Parts of the messages of these fields; the next message's start ends one."""
    lines = [LINE.match(line) for line in index.splitlines() if line.strip()]
    found = [(int(line["offset"]), line["field"]) for line in lines if line]
    if not found or not all(lines):
        raise InvalidInput(f"not an index of NOAA's: {index[:60]!r}")
    starts = sorted({offset for offset, _ in found})
    ends: dict[int, int | None] = dict(zip(starts, [*starts[1:], None], strict=True))
    return [(offset, ends[offset]) for offset, field in found if field in fields]
