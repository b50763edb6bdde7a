"""What files of the USGS look like: NWIS's JSON and RDB, the Water Data API's pages, TimeSlices.

Each reader gives what the file says, nothing left out yet, as a `Content`. What it stumbles over is
for `understood` to tell.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from thalweg import raw
from thalweg.errors import InvalidInput
from thalweg.raw import RawFile
from thalweg.sources._common import UNITS, netcdf, parsed_json, point, text

__all__ = [
    "ATTRIBUTES",
    "READINGS",
    "TABLES",
    "Content",
    "attribute_tables",
    "read_features",
    "read_json",
    "read_rdb",
    "read_timeslice",
]

DISCHARGE = "00060"
#: Columns of `Content.readings`. The time is ISO 8601 text, the value text or number or null.
READINGS = [
    "location_id", "parameter", "statistic", "value_time", "value", "unit_name", "quality_code",
]  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """What is told of a site: its name here, in NWIS and in the Water Data API, and its unit."""

    name: str
    description: str
    nwis: str
    waterdata: str
    unit: str | None = None


ATTRIBUTES = (
    Attribute("altitude", "altitude of the gauge", "alt_va", "altitude", "ft"),
    Attribute("altitude_datum", "vertical datum of altitude", "alt_datum_cd", "vertical_datum"),
    Attribute("drainage_area", "area that drains to it", "drain_area_va", "drainage_area", "mi^2"),
    Attribute(
        "contributing_drainage_area",
        "part of drainage_area that contributes to the flow",
        "contrib_drain_area_va",
        "contributing_drainage_area",
        "mi^2",
    ),
    Attribute("hydrologic_unit", "hydrologic unit code", "huc_cd", "hydrologic_unit_code"),
    Attribute("site_type", "USGS type of site; ST: stream", "site_tp_cd", "site_type_code"),
    Attribute("state", "FIPS code of the state", "state_cd", "state_code"),
    Attribute("time_zone", "abbreviation, of standard time", "tz_cd", "time_zone_abbreviation"),
)


#: Columns of the tables that tell of sites.
TABLES = {
    "units": UNITS,
    "attributes": pa.schema(dict.fromkeys(("name", "type", "description"), pa.string())),
    "location_attributes": pa.schema(
        dict.fromkeys(("location_id", "attribute_name", "value", "unit_name"), pa.string())
    ),
}


@dataclass(frozen=True)
class Content:
    """What one file says: places by location id, their attributes, and readings (`READINGS`)."""

    places: dict[str, dict[str, Any]] = field(default_factory=dict)
    attributes: list[dict[str, str | None]] = field(default_factory=list)
    readings: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=READINGS))


def read_json(file: RawFile) -> Content:
    """An answer of NWIS's instantaneous or daily values service (WaterML as JSON)."""
    places: dict[str, dict[str, Any]] = {}
    readings = []
    for series in parsed_json(file)["value"]["timeSeries"]:
        site, variable = series["sourceInfo"], series["variable"]
        location = _location(site["siteCode"][0]["value"])
        at = site["geoLocation"]["geogLocation"]
        geometry = point(float(at["longitude"]), float(at["latitude"]))
        places[location] = {"name": site["siteName"], "geometry": geometry}
        readings += [
            (
                location,
                variable["variableCode"][0]["value"],
                variable["options"]["option"][0]["optionCode"],
                reading["dateTime"],
                reading["value"],
                variable["unit"]["unitCode"],
                ",".join(_qualifiers(reading["qualifiers"])),
            )
            for reading in _main_sensor(series)
        ]
    return Content(places, readings=pd.DataFrame(readings, columns=READINGS))


def read_features(file: RawFile) -> Content:
    """A page of a collection of the Water Data API: monitoring-locations, continuous or daily."""
    page = parsed_json(file)
    features = page["features"]
    if page.get("numberReturned", len(features)) != len(features):
        raise ValueError(f"{page['numberReturned']} features promised, {len(features)} given")
    if file.dataset == "monitoring-locations":
        return _sites(_monitoring_locations(features), "waterdata")
    return Content(readings=_observations([feature["properties"] for feature in features]))


def read_rdb(file: RawFile) -> Content:
    """A table of NWIS's site service: comments, names and widths of columns, then a site a line."""
    lines = raw.read(file).decode().splitlines(keepends=True)
    table = [line for line in lines if not line.startswith("#")]
    if len(table) < 2 or not table[0].startswith("agency_cd\t") or table[-1][-1] != "\n":
        raise ValueError("no names and widths of columns, or no end of the last line")
    sites = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    if any(None in site or None in site.values() for site in sites):
        raise ValueError("a line has more or fewer columns than names")
    return _sites(_nwis_sites(sites), "nwis")


def read_timeslice(file: RawFile) -> Content:
    """A TimeSlice: one reading a gauge, with the time of the reading itself.

    A discharge of zero comes with quality 0, all others with 100: zero is kept, a dry river is
    an observation too.
    """
    with netcdf(raw.read(file), f"raw file {file.id} from {file.url}") as content:
        discharge = content["discharge"][()].astype(float)
        n = len(discharge)
        columns = {
            "location_id": [_location(site) for site in text(content["stationId"][()])],
            "parameter": [DISCHARGE] * n,
            "statistic": [""] * n,
            "value_time": [f"{time.replace('_', 'T')}Z" for time in text(content["time"][()])],
            "value": np.where(discharge < 0, np.nan, discharge),
            "unit_name": [bytes(content["discharge"].attrs["units"]).decode()] * n,
            "quality_code": [str(code) for code in content["discharge_quality"][()]],
        }
    return Content(readings=pd.DataFrame(columns))


def attribute_tables(attributes: list[dict[str, Any]]) -> dict[str, pa.Table]:
    """Rows of `location_attributes`, and of `attributes` and `units` that they refer to."""
    kinds = [
        {
            "name": a.name,
            "type": "continuous" if a.unit else "categorical",
            "description": a.description,
        }
        for a in ATTRIBUTES
    ]
    rows = {
        "units": [{"name": "mi^2", "long_name": "square miles"}],
        "attributes": kinds,
        "location_attributes": attributes,
    }
    return {name: pa.Table.from_pylist(rows[name], schema) for name, schema in TABLES.items()}


def _main_sensor(series: dict[str, Any]) -> list[dict[str, Any]]:
    """A site may have more than one sensor; the first that has values is the main one."""
    return next((block["value"] for block in series["values"] if block["value"]), [])


def _observations(properties: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of `continuous` and `daily`, where `fetch` asks for one series of a site's parameter."""
    series = {_series(p): p["time_series_id"] for p in properties}
    for p in properties:
        if series[_series(p)] != p["time_series_id"]:
            raise InvalidInput(
                f"two series of parameter {p['parameter_code']} at {p['monitoring_location_id']}, "
                f"{series[_series(p)]} and {p['time_series_id']}, and nothing says which counts: "
                f"fetch it again, by `thalweg.sources.usgs.fetch`"
            )
    rows = [
        (
            *_series(p),
            p["time"],
            p["value"],
            p["unit_of_measure"],
            ",".join([p["approval_status"], *_qualifiers(p["qualifier"])]),
        )
        # Of two versions of a value the newer one comes last, and counts.
        for p in sorted(properties, key=lambda p: p.get("last_modified") or "")
    ]
    return pd.DataFrame(rows, columns=READINGS)


def _series(properties: dict[str, Any]) -> tuple[str, str, str]:
    number = properties["monitoring_location_id"].split("-", 1)[1]
    return _location(number), properties["parameter_code"], properties["statistic_id"]


def _qualifiers(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _monitoring_locations(features: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for feature in features:
        about = feature["properties"]
        longitude, latitude = (feature["geometry"] or {"coordinates": (None, None)})["coordinates"]
        yield about | {
            "number": about["monitoring_location_number"],
            "name": about["monitoring_location_name"],
            "longitude": longitude,
            "latitude": latitude,
        }


def _nwis_sites(records: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    for about in records:
        yield about | {
            "number": about["site_no"],
            "name": about["station_nm"],
            "longitude": about["dec_long_va"] or None,
            "latitude": about["dec_lat_va"] or None,
        }


def _sites(sites: Iterator[dict[str, Any]], service: str) -> Content:
    content = Content()
    for site in sites:
        location = _location(site["number"])
        known = site["longitude"] is not None and site["latitude"] is not None
        geometry = point(float(site["longitude"]), float(site["latitude"])) if known else None
        content.places[location] = {"name": site["name"], "geometry": geometry}
        for attribute in ATTRIBUTES:
            value = site.get(getattr(attribute, service))
            if value is not None and str(value).strip():
                content.attributes.append(
                    {
                        "location_id": location,
                        "attribute_name": attribute.name,
                        "value": str(value).strip(),
                        "unit_name": attribute.unit,
                    }
                )
    return content


def _location(number: str) -> str:
    if not (number.isascii() and number.isalnum()):
        raise ValueError(f"{number!r} is no number of a USGS site")
    return f"usgs-{number}"
