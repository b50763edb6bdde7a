"""The tables of the warehouse, declared as data; names and field order are TEEHR's.

To change a table, change its declaration: `migrate` adds what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import SortField, SortOrder
from pyiceberg.transforms import IdentityTransform, MonthTransform
from pyiceberg.types import (
    BinaryType,
    DoubleType,
    LongType,
    NestedField,
    PrimitiveType,
    StringType,
    TimestamptzType,
)

__all__ = [
    "CHANGES",
    "NAMESPACE",
    "PROPERTIES",
    "QUANTITIES",
    "SEEDS",
    "TABLES",
    "Column",
    "Quantity",
    "TableDefinition",
]

NAMESPACE = "hydro"
#: What each version of the tables brought. A version is never taken back; `migrate` brings tables
#: of any earlier one to the last, and refuses those of a later one.
CHANGES = {
    1: "units, variables, configurations, locations, crosswalks, series and metrics",
    2: "attributes of locations, quality_code of observations, raw file and run of every row",
    3: "statistics of each month, of which metrics are made again when months come or change",
}
PROPERTIES = {
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    # A conflicting commit must be computed again from the new state, which `write` does itself.
    "commit.retry.num-retries": "0",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.row-group-limit": "131072",
}
TIME = TimestamptzType()
TEXT = StringType()
NUMBER = DoubleType()
COUNT = LongType()
BYTES = BinaryType()


@dataclass(frozen=True)
class Column:
    """One column: Iceberg type, what it means (with its unit), and whether null is allowed."""

    type: PrimitiveType
    doc: str
    nullable: bool = False


@dataclass(frozen=True)
class TableDefinition:
    """One table: its columns, its key, and how its rows are laid out."""

    doc: str
    columns: dict[str, Column]
    key: tuple[str, ...]
    # Columns whose range or set of values bounds what a write has to read again.
    range: tuple[str, ...]
    # Column → (table, column) in which its values have to be known: no write without.
    references: dict[str, tuple[str, str]] = field(default_factory=dict)
    # The same, for rows that come from outside: those that are not known go to quarantine.
    belongs: dict[str, tuple[str, str]] = field(default_factory=dict)
    # The time, one of the key, by whose months files are cut.
    month_of: str | None = None

    @property
    def iceberg(self) -> Schema:
        """The Iceberg schema; ids count from 1 in declared order."""
        items = enumerate(self.columns.items(), start=1)
        return Schema(
            *(
                NestedField(i, name, c.type, doc=c.doc, required=not c.nullable)
                for i, (name, c) in items
            )
        )

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema that rows have when they are written."""
        types = {TEXT: pa.string(), TIME: pa.timestamp("us", "UTC"), BYTES: pa.binary()}
        types |= {NUMBER: pa.float64(), COUNT: pa.int64()}
        return pa.schema(
            pa.field(name, types[c.type], nullable=c.nullable) for name, c in self.columns.items()
        )

    def plain(self, rows: pa.Table) -> pa.Table:
        """Rows as they are read: declared order and types, whatever the files chose."""
        names = [name for name in self.columns if name in rows.column_names]
        fields = [self.arrow.field(name).with_nullable(True) for name in names]
        return rows.select(names).cast(pa.schema(fields))

    @property
    def partition_spec(self) -> PartitionSpec:
        """By month where the table has a time, so that new months leave old files alone."""
        if self.month_of is None:
            return PartitionSpec()
        source = self.iceberg.find_field(self.month_of).field_id
        return PartitionSpec(
            PartitionField(source, 1000, MonthTransform(), f"{self.month_of}_month")
        )

    @property
    def sort_order(self) -> SortOrder:
        """By key: a location's series lies together, in order of time."""
        ids = [self.iceberg.find_field(name).field_id for name in self.key]
        return SortOrder(*(SortField(i, transform=IdentityTransform()) for i in ids))


@dataclass(frozen=True)
class Quantity:
    """What a variable measures: the unit it is kept in, and the values it can have in that unit.

    The ends are beyond what was ever measured on Earth: they tell a wrong unit or a broken sensor,
    not a rare flood.
    """

    unit: str
    lowest: float
    highest: float


#: By the beginning of the variable's name. The Amazon at Óbidos has carried 370,000 m^3/s; rain
#: has come down at 305 mm in 42 minutes (Holt, 1947); -89.2 degC (Vostok) and 56.7 degC (Furnace
#: Creek) are the extremes of air temperature, 35 degC (Dhahran) that of the dew point: WMO's
#: archive of weather and climate extremes, https://wmo.asu.edu.
QUANTITIES = {
    "streamflow": Quantity("m^3/s", 0, 500_000),
    "stage": Quantity("m", -500, 9_000),
    "rainfall": Quantity("mm/h", 0, 2_500),
    "air_temperature": Quantity("degC", -95, 65),
    "dew_point_temperature": Quantity("degC", -110, 45),
}
PROVENANCE = {
    "raw_file_id": Column(TEXT, "raw file that first brought this value", nullable=True),
    "run_id": Column(TEXT, "run that wrote this row", nullable=True),
}
SERIES = {
    "reference_time": Column(TIME, "issue time of the forecast; null: not a forecast", True),
    "value_time": Column(TIME, "time for which the value holds, UTC"),
    "value": Column(NUMBER, "the value, in the unit of unit_name"),
    "unit_name": Column(TEXT, "unit of the value, a name of `units`"),
    "location_id": Column(TEXT, "gauge, reach or basin, with the source's prefix"),
    "configuration_name": Column(TEXT, "what made the value, a name of `configurations`"),
    "variable_name": Column(TEXT, "what was measured or simulated, a name of `variables`"),
}
SERIES_KEY = (
    "location_id",
    "configuration_name",
    "variable_name",
    "reference_time",
    "value_time",
)
SERIES_RANGE = ("location_id", "configuration_name", "value_time")
KNOWN = {"unit_name": ("units", "name"), "variable_name": ("variables", "name")}

# In referential order: what is referred to comes first.
TABLES = {
    "units": TableDefinition(
        doc="Units of measure.",
        columns={
            "name": Column(TEXT, "UDUNITS name"),
            "long_name": Column(TEXT, "in words", True),
            **PROVENANCE,
        },
        key=("name",),
        range=("name",),
    ),
    "variables": TableDefinition(
        doc="What is measured or simulated.",
        columns={
            "name": Column(TEXT, "name, as {variable}_{interval}_{statistic}"),
            "long_name": Column(TEXT, "in words", True),
            **PROVENANCE,
        },
        key=("name",),
        range=("name",),
    ),
    "configurations": TableDefinition(
        doc="Observing networks and model set-ups that make values.",
        columns={
            "name": Column(TEXT, "name of the configuration"),
            "type": Column(TEXT, "primary (observed) or secondary (simulated)"),
            "description": Column(TEXT, "in words", True),
            **PROVENANCE,
        },
        key=("name",),
        range=("name",),
    ),
    "locations": TableDefinition(
        doc="Places that have primary timeseries.",
        columns={
            "id": Column(TEXT, "id with the source's prefix: usgs-03171000"),
            "name": Column(TEXT, "the source's own name for it", True),
            "geometry": Column(BYTES, "WKB, longitude latitude in degrees, EPSG:4326", True),
            **PROVENANCE,
        },
        key=("id",),
        range=("id",),
    ),
    "attributes": TableDefinition(
        doc="What is known of locations, besides their series.",
        columns={
            "name": Column(TEXT, "name of the attribute: drainage_area"),
            "type": Column(TEXT, "continuous or categorical"),
            "description": Column(TEXT, "in words", True),
            **PROVENANCE,
        },
        key=("name",),
        range=("name",),
    ),
    "location_attributes": TableDefinition(
        doc="Attributes of locations.",
        columns={
            "location_id": Column(TEXT, "id in `locations`"),
            "attribute_name": Column(TEXT, "a name of `attributes`"),
            "value": Column(TEXT, "the value as text, in the unit of unit_name"),
            "unit_name": Column(TEXT, "a name of `units`; null: no unit", True),
            **PROVENANCE,
        },
        key=("location_id", "attribute_name"),
        range=("location_id",),
        references={"attribute_name": ("attributes", "name"), "unit_name": ("units", "name")},
        belongs={"location_id": ("locations", "id")},
    ),
    "location_crosswalks": TableDefinition(
        doc="Which secondary location stands for which primary location.",
        columns={
            "primary_location_id": Column(TEXT, "id in `locations`"),
            "secondary_location_id": Column(TEXT, "the model's id: nwm30-6884666"),
            **PROVENANCE,
        },
        key=("primary_location_id", "secondary_location_id"),
        range=("primary_location_id",),
        belongs={"primary_location_id": ("locations", "id")},
    ),
    "primary_timeseries": TableDefinition(
        doc="Observed values.",
        columns={
            **SERIES,
            "quality_code": Column(TEXT, "what the provider says of the value's quality", True),
            **PROVENANCE,
        },
        key=SERIES_KEY,
        range=SERIES_RANGE,
        references=KNOWN,
        belongs={"location_id": ("locations", "id")},
        month_of="value_time",
    ),
    "secondary_timeseries": TableDefinition(
        doc="Simulated and forecast values.",
        columns={
            **SERIES,
            "member": Column(TEXT, "member of the ensemble; null: no ensemble", True),
            **PROVENANCE,
        },
        key=(*SERIES_KEY[:3], "member", *SERIES_KEY[3:]),
        range=SERIES_RANGE,
        references=KNOWN,
        belongs={"location_id": ("location_crosswalks", "secondary_location_id")},
        month_of="value_time",
    ),
    "metrics": TableDefinition(
        doc="Skill of a configuration at a location; members of an ensemble are pooled.",
        columns={
            "primary_location_id": Column(TEXT, "id in `locations`"),
            "configuration_name": Column(TEXT, "the configuration that is judged"),
            "variable_name": Column(TEXT, "a name of `variables`"),
            "unit_name": Column(TEXT, "unit of the compared values"),
            "lead_time_bin": Column(
                COUNT, "lower edge of the bin of lead times, hours; null: all", True
            ),
            "metric_name": Column(TEXT, "name of the metric: kge, nse, …"),
            "value": Column(NUMBER, "the metric's value; null: not defined", True),
            "count": Column(COUNT, "number of compared pairs"),
            "run_id": PROVENANCE["run_id"],
        },
        key=(
            "primary_location_id",
            "configuration_name",
            "variable_name",
            "unit_name",
            "lead_time_bin",
            "metric_name",
        ),
        range=("primary_location_id", "configuration_name"),
        references=KNOWN,
    ),
    "monthly_statistics": TableDefinition(
        doc="What metrics are made of: sums over the compared pairs of each month.",
        columns={
            "month": Column(TIME, "the month of value_time, its first moment, UTC"),
            "primary_location_id": Column(TEXT, "id in `locations`"),
            "configuration_name": Column(TEXT, "the configuration that is judged"),
            "variable_name": Column(TEXT, "a name of `variables`"),
            "unit_name": Column(TEXT, "unit of the compared values"),
            "lead_time_bin": Column(
                COUNT, "lower edge of the bin of lead times, hours; null: no lead time", True
            ),
            "primary_configuration_name": Column(
                TEXT, "the observations they are compared with", True
            ),
            "count": Column(COUNT, "number of compared pairs"),
            **{
                f"{name}_{side}": Column(NUMBER, f"{words} {whose} values{unit}", True)
                for side, whose in (("primary", "observed"), ("secondary", "forecast"))
                for name, words, unit in (
                    ("mean", "mean of the", ""),
                    ("min", "least of the", ""),
                    ("max", "greatest of the", ""),
                    ("squares", "sum of squared deviations from their mean of the", ""),
                    ("peak_time", "first time of the greatest of the", ", seconds since 1970"),
                )
            },
            "products": Column(NUMBER, "sum of products of both deviations", True),
            "mean_of_errors": Column(NUMBER, "mean of forecast minus observed", True),
            "mean_of_absolutes": Column(NUMBER, "mean of the absolute errors", True),
            "mean_of_squares": Column(NUMBER, "mean of the squared errors", True),
            "run_id": PROVENANCE["run_id"],
        },
        key=(
            "primary_location_id",
            "configuration_name",
            "variable_name",
            "unit_name",
            "lead_time_bin",
            "month",
        ),
        range=("primary_location_id", "month"),
        references=KNOWN,
        month_of="month",
    ),
}
SEEDS: dict[str, list[dict[str, str]]] = {
    "units": [
        {"name": name, "long_name": words}
        for name, words in {
            "m^3/s": "cubic metres per second",
            "ft^3/s": "cubic feet per second",
            "m": "metres",
            "ft": "feet",
            "mm": "millimetres",
            "mm/h": "millimetres per hour",
            "mm/d": "millimetres per day",
            "degC": "degrees Celsius",
            "K": "kelvin",
            "m/s": "metres per second",
            "Pa": "pascals",
            "%": "per cent",
            "1": "a number without a unit",
            "ug/m^3": "micrograms per cubic metre",
        }.items()
    ],
    "variables": [
        {"name": name, "long_name": words}
        for name, words in {
            "streamflow_hourly_inst": "streamflow, instantaneous, on the hour",
            "streamflow_daily_mean": "streamflow, mean of the day",
            "stage_hourly_inst": "water level above the gauge's datum, on the hour",
            "rainfall_hourly_rate": "rainfall, mean rate of the hour",
            "air_temperature_hourly_inst": "air temperature at 2 m, on the hour",
            "dew_point_temperature_hourly_inst": "dew point at 2 m, on the hour",
        }.items()
    ],
}
