"""ERA5, ECMWF's reanalysis: hourly single levels from Copernicus' Climate Data Store."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract, _grib
from thalweg.sources._climate_store import area_of, retrieve
from thalweg.sources._common import Moment, Progress, hours, period

__all__ = ["CONTRACT", "LICENCE", "TITLE", "fetch", "read"]

TITLE = "ERA5 hourly reanalysis on single levels"
LICENCE = "Copernicus licence (contains modified Copernicus Climate Change Service information)"
ATTRIBUTES = {
    "title": TITLE,
    "institution": "European Centre for Medium-Range Weather Forecasts",
    "license": LICENCE,
    "configuration_name": "era5_reanalysis",
}
COLLECTION = "reanalysis-era5-single-levels"
VARIABLES = ("2m_temperature", "2m_dewpoint_temperature", "total_precipitation")
CONTRACT = Contract(
    fields={"t2m": "K", "d2m": "K", "tp": "m", "u10": "m s-1", "v10": "m s-1", "t": "K"},
    configurations={ATTRIBUTES["configuration_name"]: dt.timedelta(days=8)},
)
read = _grib.reader(CONTRACT, ATTRIBUTES)


def fetch(
    start: Moment,
    end: Moment,
    *,
    variables: Sequence[str] = VARIABLES,
    area: _grib.Area | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land the hours from `start` on and before `end`, a request a month.

    A request asks for the same hours of each of its days, so that more hours than these may come.

    Parameters
    ----------
    variables
        Names as in the Climate Data Store: `2m_temperature` …
    area
        West, south, east, north in degrees; by default the globe.

    Raises
    ------
    InvalidInput
        A period without a full hour.
    Unavailable
        cdsapi is not installed or has no key, or the store refuses.
    """
    settings = settings or load()
    months: dict[str, list[dt.datetime]] = {}
    for hour in hours(*period(start, end), what="ERA5"):
        months.setdefault(f"{hour:%Y-%m}", []).append(hour)
    files = []
    for done, (month, times) in enumerate(months.items(), start=1):
        request = {
            "product_type": ["reanalysis"],
            "variable": list(variables),
            "year": [month[:4]],
            "month": [month[5:]],
            "day": sorted({f"{time:%d}" for time in times}),
            "time": sorted({f"{time:%H:%M}" for time in times}),
            "data_format": "grib",
            "download_format": "unarchived",
            **area_of(area),
        }
        valid = (times[0], times[-1])
        files.append(
            retrieve(
                "era5", "single_levels", COLLECTION, request, settings.cds_url, valid, settings
            )
        )
        if progress:
            progress(done, len(months))
    return files
