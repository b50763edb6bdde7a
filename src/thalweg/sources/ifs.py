"""Forecasts of ECMWF's IFS, open data on 0.25°: some fields of each file, by its index.

The archive of ECMWF keeps a few days, its mirrors in the clouds all; `ifs_url` may name one.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence

from thalweg.errors import InvalidInput
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract, _grib
from thalweg.sources._common import SIX_HOURLY, Moment, Progress, hours, period
from thalweg.sources._messages import Part, RemoteGrib, fetch_messages

__all__ = ["CONTRACT", "LICENCE", "TITLE", "fetch", "read"]

TITLE = "ECMWF IFS open data, forecasts on 0.25°"
LICENCE = "CC-BY-4.0 (ECMWF)"
ATTRIBUTES = {
    "title": TITLE,
    "institution": "European Centre for Medium-Range Weather Forecasts",
    "license": LICENCE,
    "configuration_name": "ifs_oper",
}
#: Steps in hours; forecasts of 6 and 18 h end sooner, and all did in earlier years.
STEPS = (*range(0, 145, 3), *range(150, 361, 6))
#: Before, forecasts of 6 and 18 h were a stream of their own; in the mirrors they still are.
CYCLE_50R1 = dt.datetime(2026, 5, 12, 6, tzinfo=dt.UTC)
FIELDS = ("2t", "2d", "tp")
CONTRACT = Contract(
    fields={
        "t2m": "K",
        "d2m": "K",
        "tp": "m",
        "u10": "m s-1",
        "v10": "m s-1",
        "msl": "Pa",
        "t": "K",
    },
    configurations={ATTRIBUTES["configuration_name"]: dt.timedelta(hours=24)},
)
read = _grib.reader(CONTRACT, ATTRIBUTES)


def fetch(
    start: Moment,
    end: Moment,
    *,
    fields: Sequence[str] = FIELDS,
    steps: Sequence[int] = STEPS,
    levels: Sequence[int] = (),
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land fields of all forecasts issued from `start` on and before `end`.

    Parameters
    ----------
    start, end
        Issue times (0, 6, 12, 18 h UTC); a date is its midnight.
    fields
        ECMWF's short names: `2t`, `2d`, `tp`, `10u`, `msl` … On pressure levels `t`, `gh` …
    steps
        Lead times in hours; those that a forecast does not have are left out.
    levels
        Pressure levels in hPa; without them, fields at the surface only.

    Raises
    ------
    InvalidInput
        A period in which none is issued, or a step that there is not.
    NotFound, Unavailable
        None of the files is there, or the server does not answer.
    """
    settings = settings or load()
    if wrong := set(steps) - set(STEPS):
        raise InvalidInput(f"the IFS has no step of {min(wrong)} h; steps are {STEPS}")
    wanted = [
        _file(issue, step, settings)
        for issue in hours(*period(start, end), SIX_HOURLY, "the IFS")
        for step in steps
    ]

    def choose(index: str) -> list[Part]:
        return _chosen(index, set(fields), {str(level) for level in levels})

    return fetch_messages("ifs", "oper", wanted, choose, settings, progress)


def _file(issue: dt.datetime, step: int, settings: Settings) -> RemoteGrib:
    stream = "scda" if issue < CYCLE_50R1 and issue.hour in (6, 18) else "oper"
    name = f"{issue:%Y%m%d/%H}z/ifs/0p25/{stream}/{issue:%Y%m%d%H}0000-{step}h-{stream}-fc"
    url = f"{settings.ifs_url}/{name}"
    return RemoteGrib(f"{url}.grib2", f"{url}.index", issue + dt.timedelta(hours=step))


def _chosen(index: str, fields: set[str], levels: set[str]) -> list[Part]:
    """Parts of the messages of these fields: a line of JSON describes each."""
    try:
        lines = [json.loads(line) for line in index.splitlines() if line.strip()]
        return [
            (line["_offset"], line["_offset"] + line["_length"])
            for line in lines
            if line["param"] in fields
            and (line["levtype"] == "sfc" or line.get("levelist") in levels)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"not an index of ECMWF's ({error}): {index[:60]!r}") from None
