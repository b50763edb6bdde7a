"""Series as PI-XML of Delft-FEWS, in the form of an export."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pyarrow as pa

KEY = ["location_id", "reference_time", "member"]
HEADER = """
    <type>instantaneous</type>
    <locationId>SCBC1</locationId>
    <parameterId>QINE</parameterId>
    <ensembleId>MEFP</ensembleId>
    <ensembleMemberIndex>1963</ensembleMemberIndex>
    <timeStep unit="second" multiplier="3600"/>
    <startDate date="2024-04-01" time="12:00:00"/>
    <endDate date="2024-04-01" time="18:00:00"/>
    <forecastDate date="2024-04-01" time="12:00:00"/>
    <missVal>-999.0</missVal>
    <stationName>SPANISH C AB BLACKHAWK C AT KEDDIE CA</stationName>
    <units>CFS</units>
"""


def document(*series: str, zone: str = "0.0") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<TimeSeries xmlns="http://www.wldelft.nl/fews/PI" version="1.9">\n'
        f"<timeZone>{zone}</timeZone>\n{''.join(series)}</TimeSeries>\n"
    )


def one_series(*events: str, header: str = HEADER) -> str:
    return f"<series><header>{header}</header>{''.join(events)}</series>\n"


def as_series(rows: pa.Table, ahead: float = 0.0) -> str:
    """A member of an ensemble as a FEWS export writes it, in a zone so many hours ahead of UTC."""
    shift = dt.timedelta(hours=ahead)

    def moment(tag: str, time: dt.datetime, more: str = "") -> str:
        local = time + shift
        return f'<{tag} date="{local:%Y-%m-%d}" time="{local:%H:%M:%S}"{more}/>'

    first = rows.slice(0, 1).to_pylist()[0]
    times, values = rows["value_time"].to_pylist(), rows["value"].to_pylist()
    header = (
        "<type>instantaneous</type>"
        f"<locationId>{first['location_id']}</locationId><parameterId>QINE</parameterId>"
        f"<ensembleMemberIndex>{first['member']}</ensembleMemberIndex>"
        '<timeStep unit="second" multiplier="3600"/>'
        + moment("startDate", times[0])
        + moment("endDate", times[-1])
        + moment("forecastDate", first["reference_time"])
        + "<missVal>-999</missVal><units>CFS</units>"
    )
    events = (
        moment("event", time, f' value="{value!r}" flag="2"')
        for time, value in zip(times, values, strict=True)
    )
    return one_series("\n".join(events), header=header)


def members(rows: pa.Table) -> Iterator[pa.Table]:
    """The members of the ensembles, one after another."""
    ordered = rows.sort_by([(name, "ascending") for name in (*KEY, "value_time")])
    counts = ordered.group_by(KEY, use_threads=False).aggregate([([], "count_all")])["count_all"]
    start = 0
    for count in counts.to_pylist():
        yield ordered.slice(start, count)
        start += count
