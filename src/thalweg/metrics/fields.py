"""What pairs can be grouped by or chosen by: their columns, and fields calculated from them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COLUMNS", "EVENT", "FIELDS", "OF_THRESHOLDS", "Field"]


@dataclass(frozen=True)
class Field:
    """A field in SQL over the columns of the pairs, and what it says."""

    sql: str
    says: str


#: Columns of the pairs by which a result can be grouped; variable and unit always are.
COLUMNS = (
    "primary_location_id",
    "secondary_location_id",
    "configuration_name",
    "member",
    "reference_time",
    "value_time",
)
_TIME = "(value_time AT TIME ZONE 'UTC')"
_ISSUED = "(reference_time AT TIME ZONE 'UTC')"
EVENT = "event"
#: Calculated fields; those of time are of the time for which a value holds, in UTC.
FIELDS = {
    "year": Field(f"year({_TIME})", "calendar year"),
    "month": Field(f"month({_TIME})", "month of the year, 1 to 12"),
    "season": Field(
        f"['DJF', 'MAM', 'JJA', 'SON'][1 + (month({_TIME}) % 12) // 3]",
        "three months: DJF, MAM, JJA or SON",
    ),
    "water_year": Field(
        f"year({_TIME} + INTERVAL 3 MONTH)",
        "October to September, called by the year in which it ends",
    ),
    "day_of_year": Field(f"dayofyear({_TIME})", "day of the year, 1 to 366"),
    "hour": Field(f"hour({_TIME})", "hour of the day, 0 to 23"),
    "issue_hour": Field(f"hour({_ISSUED})", "hour of the day of the reference time, 0 to 23"),
    "lead_time": Field("lead_time", "hours from the reference time to the value time"),
}
#: Calculated fields that need thresholds.
OF_THRESHOLDS = {
    "exceeds": Field("primary_value >= threshold_value", "whether the observation reaches it"),
    EVENT: Field(
        EVENT, "the time at which the observations reached it, while they stay there; null: below"
    ),
}
