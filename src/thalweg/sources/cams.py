"""Air quality forecasts of Copernicus' Atmosphere Monitoring Service (CAMS), global."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract, _grib
from thalweg.sources._climate_store import area_of, retrieve
from thalweg.sources._common import Moment, Progress, hours, period

__all__ = ["CONTRACT", "LICENCE", "TITLE", "fetch", "read"]

TITLE = "CAMS global forecasts of atmospheric composition"
LICENCE = "CC-BY-4.0 (contains modified Copernicus Atmosphere Monitoring Service information)"
ATTRIBUTES = {
    "title": TITLE,
    "institution": "European Centre for Medium-Range Weather Forecasts",
    "license": LICENCE,
    "configuration_name": "cams_forecast",
}
COLLECTION = "cams-global-atmospheric-composition-forecasts"
VARIABLES = ("particulate_matter_2.5um", "particulate_matter_10um")
CYCLES = (0, 12)
CONTRACT = Contract(
    fields={"pm2p5": "kg m-3", "pm10": "kg m-3"},
    configurations={ATTRIBUTES["configuration_name"]: dt.timedelta(hours=36)},
)
read = _grib.reader(CONTRACT, ATTRIBUTES)


def fetch(
    start: Moment,
    end: Moment,
    *,
    variables: Sequence[str] = VARIABLES,
    steps: Sequence[int] = tuple(range(0, 121, 3)),
    area: _grib.Area | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land the forecasts issued (0 and 12 h UTC) from `start` on and before `end`.

    Parameters
    ----------
    variables
        Names as in the Atmosphere Data Store: `particulate_matter_2.5um`, `ozone` …
    steps
        Lead times in hours, up to 120.
    area
        West, south, east, north in degrees; by default the globe.

    Raises
    ------
    InvalidInput
        A period in which none is issued.
    Unavailable
        cdsapi is not installed or has no key, or the store refuses.
    """
    settings = settings or load()
    issues = hours(*period(start, end), CYCLES, "CAMS")
    files = []
    for done, issue in enumerate(issues, start=1):
        request = {
            "type": ["forecast"],
            "variable": list(variables),
            "date": [f"{issue:%Y-%m-%d}/{issue:%Y-%m-%d}"],
            "time": [f"{issue:%H:%M}"],
            "leadtime_hour": [str(step) for step in steps],
            "data_format": "grib",
            **area_of(area),
        }
        first, last = (issue + dt.timedelta(hours=h) for h in (min(steps), max(steps)))
        files.append(
            retrieve(
                "cams", "forecasts", COLLECTION, request, settings.ads_url, (first, last), settings
            )
        )
        if progress:
            progress(done, len(issues))
    return files
