"""Ensemble forecasts as PI-XML of Delft-FEWS, the form in which NOAA's HEFS is kept.

A series of a file is one member at one location; the warehouse gets its values with the location
and member as the file names them, the time in UTC, and the unit that the file states. Values that
are marked as missing (`missVal`, NaN, flag 9) or unreliable (flags 6 to 8) are left out; their
number is in the rows' metadata, `rows.schema.metadata[b"missing"]`.

The format: Deltares, Delft-FEWS Published Interface,
https://publicwiki.deltares.nl/display/FEWSDOC.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import pyarrow as pa
from defusedxml.ElementTree import iterparse  # type: ignore[import-untyped]

from thalweg import raw
from thalweg.errors import InvalidInput, nearest
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract
from thalweg.sources._common import CONFIGURATIONS, SECONDARY, VARIABLE, Progress, fetch_files
from thalweg.sources._series import series, tables, utc

__all__ = ["CONTRACT", "LICENCE", "TITLE", "UNITS", "VARIABLES", "fetch", "read"]

TITLE = "Ensemble forecasts of HEFS and others, as PI-XML of Delft-FEWS"
LICENCE = "public domain (NOAA) for HEFS; for other files, that of who made them"
#: Variable of the warehouse by `parameterId`, for what holds at an instant.
VARIABLES = {
    "QINE": VARIABLE,
    "QIN": VARIABLE,
    "SQIN": VARIABLE,
    "STG": "stage_hourly_inst",
    "SSTG": "stage_hourly_inst",
}
#: Unit of the warehouse by `units` in small letters; others are taken as they are written.
UNITS = {"cfs": "ft^3/s", "ft3/s": "ft^3/s", "cms": "m^3/s", "m3/s": "m^3/s", "ft": "ft", "m": "m"}
CONTRACT = Contract(
    tables={"configurations": CONFIGURATIONS, "secondary_timeseries": SECONDARY},
    # Names and units of other variables are those of who exports them.
    units={"streamflow_*": ("ft^3/s", "m^3/s"), "stage_*": ("ft", "m"), "*": ("*",)},
    configurations={"*": None},
)
# Flags from here on: unreliable (6 to 8), missing (9), deleted (10).
UNRELIABLE = 6
STATISTICS = {"inst": "instantaneous", "mean": "mean"}


def fetch(
    uris: Sequence[str],
    *,
    dataset: str = "pi_xml",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land PI-XML files from wherever they are.

    Parameters
    ----------
    uris
        `https://…`, or any URI of fsspec, also as a pattern: `s3://forecasts/2024-04-01/*.xml`.
    dataset
        Name for these files in `raw`, such as `cnrfc`.

    Raises
    ------
    NotFound, Unavailable
        There is nothing at a URI, or nobody answers.
    """
    return fetch_files("hefs", dataset, uris, lambda _: "xml", settings or load(), progress)


def read(
    files: Iterable[RawFile],
    *,
    configuration: str | None = None,
    description: str = "Forecasts kept as PI-XML of Delft-FEWS",
    variables: Mapping[str, str | None] = VARIABLES,
) -> dict[str, pa.Table]:
    """Rows of `secondary_timeseries` and `configurations`.

    Parameters
    ----------
    configuration
        Name of what made the forecasts, such as `CNRFC_HEFS`; by default the `ensembleId` or else
        the `moduleInstanceId` that a series states.
    description
        The same in words.
    variables
        Variable by `parameterId`; None leaves the parameter out. One that ends in `_hourly_inst`
        gets the values on the full hour.

    Raises
    ------
    InvalidInput
        A file is damaged or no PI-XML, has a parameter that is not among `variables`, a series of
        another type than its variable is, or lacks what a row needs.
    """
    parts = []
    used: dict[str, str] = {}
    missing = 0
    for file in files:
        zone = 0.0
        for element in _children(raw.read(file), file):
            tag = _tag(element)
            if tag == "timeZone":
                zone = _hours(element.text, file)
            elif tag.startswith("daylightSaving"):
                raise InvalidInput(f"{file.url}: times with daylight saving; export them in UTC")
            elif tag == "series":
                header = _header(element, file)
                variable = _variable(header, variables, file)
                if variable is None:
                    continue
                made_by = configuration or _made_by(header)
                rows, dropped = _series(element, header, zone, variable, made_by, file)
                parts.append(rows)
                missing += dropped
                used[made_by] = description
    return tables(parts, used, missing)


def _children(content: bytes, file: RawFile) -> Iterator[Element]:
    """The children of the root, whole, one at a time: a file may be larger than memory as a tree.

    Entities and document types are refused, so that a small file cannot become a large one.
    """
    depth, root, said = 0, None, ""
    try:
        for event, element in iterparse(io.BytesIO(content), ("start", "end"), forbid_dtd=True):
            if root is None:
                root = element
                if _tag(root) != "TimeSeries":
                    said = f"its root is {_tag(root)!r}"
                    break
            depth += 1 if event == "start" else -1
            if event == "end" and depth == 1:
                yield element
                root.clear()
    # What the parser, its encodings and its guards against entities raise.
    except (ParseError, LookupError, ValueError) as error:
        said = str(error).splitlines()[0]
    if said:
        raise InvalidInput(
            f"{file.url} is not the PI-XML it should be ({said}): expected one whole <TimeSeries>; "
            f"export it again"
        )


def _header(element: Element, file: RawFile) -> dict[str, str]:
    """What a series says of itself, texts and moments, by name."""
    for child in element:
        if _tag(child) == "header":
            said = {_tag(item): (item.text or "").strip() or _moment(item.attrib) for item in child}
            break
    else:
        raise InvalidInput(f"{file.url}: a series without a header")
    for name in ("type", "locationId", "parameterId", "units"):
        if not said.get(name):
            raise InvalidInput(f"{file.url}: a series whose header has no {name}")
    return said


def _variable(
    header: dict[str, str], variables: Mapping[str, str | None], file: RawFile
) -> str | None:
    parameter = header["parameterId"]
    if parameter not in variables:
        raise InvalidInput(
            f"{file.url}: no variable is known for parameter {parameter!r}"
            f"{nearest(parameter, variables)}; name it in `variables`, or None to leave it out"
        )
    variable = variables[parameter]
    wanted = STATISTICS.get(variable.rsplit("_", 1)[-1]) if variable else None
    if wanted and header["type"] != wanted:
        raise InvalidInput(
            f"{file.url}: {parameter} at {header['locationId']} is {header['type']}, "
            f"but {variable} has to be {wanted}"
        )
    return variable


def _made_by(header: dict[str, str]) -> str:
    return header.get("ensembleId") or header.get("moduleInstanceId") or "fews"


def _series(
    element: Element,
    header: dict[str, str],
    zone: float,
    variable: str,
    made_by: str,
    file: RawFile,
) -> tuple[pa.Table, int]:
    """Rows of a series, and how many of its values are missing."""
    where = f"{file.url}: {header['parameterId']} at {header['locationId']}"
    events = [child.attrib for child in element if _tag(child) == "event"]
    try:
        when = _times([_moment(event) for event in events], zone)
        values = np.array([event["value"] for event in events], dtype=float)
        flags = np.array([event.get("flag", 0) for event in events], dtype=int)
        mark = float(header.get("missVal") or "nan")
        issued = _times([header["forecastDate"]], zone) if "forecastDate" in header else None
    except KeyError as error:
        raise InvalidInput(f"{where}: an event without {error}") from None
    except (ValueError, OverflowError) as error:  # Arrow's are ValueErrors, too
        raise InvalidInput(f"{where}: {str(error).splitlines()[0]}") from None
    wanted = np.ones(len(events), dtype=bool)
    if variable.endswith("_hourly_inst"):
        wanted = when == when.astype("datetime64[h]")
    present = ~np.isnan(values) & (values != mark) & (flags < UNRELIABLE)
    keep = wanted & present
    constant = {
        "reference_time": None if issued is None else utc(issued[0]),
        "unit_name": UNITS.get(header["units"].lower(), header["units"]),
        "location_id": header["locationId"],
        "configuration_name": made_by,
        "variable_name": variable,
        "member": header.get("ensembleMemberIndex") or header.get("ensembleMemberId"),
        "raw_file_id": file.id,
    }
    rows = series(constant, value=values[keep], value_time=when[keep])
    return rows, int((wanted & ~present).sum())


def _moment(attributes: Mapping[str, str]) -> str:
    return f"{attributes['date']}T{attributes.get('time')}" if "date" in attributes else ""


def _times(local: Sequence[str], zone: float) -> np.ndarray[Any, Any]:
    """Times in UTC of local ones, in a zone so many hours ahead of it."""
    times = pa.array(local, pa.string()).cast(pa.timestamp("us"))
    shown: np.ndarray[Any, Any] = times.to_numpy(zero_copy_only=False)
    return shown - np.timedelta64(round(zone * 3600), "s")


def _hours(text: str | None, file: RawFile) -> float:
    try:
        zone = float(text or "0")
    except ValueError:
        zone = float("nan")
    if not abs(zone) <= 14:
        raise InvalidInput(f"{file.url}: timeZone is {text!r}, expected hours ahead of UTC")
    return zone


def _tag(element: Any) -> str:
    """Name of an element, without its namespace."""
    return str(element.tag).rpartition("}")[2]
