"""Tables of one's own: CSV (also gzipped), Parquet or NetCDF-4, with a mapping of their fields.

What a file is, its first bytes say, whatever its name. Identifiers are text as they stand in
the file; a value that is missing is left out, and their number is in the table's metadata,
`rows.schema.metadata[b"missing"]`.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from thalweg import raw
from thalweg.errors import InvalidInput, nearest
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract
from thalweg.sources._common import TIME, Progress, fetch_files, points, understood

__all__ = ["CONTRACT", "LICENCE", "TITLE", "Layout", "fetch", "read"]

TITLE = "Tables of one's own: CSV, Parquet, NetCDF"
LICENCE = "that of each file"
ADVICE = "mend it, or say by the mapping what is meant"
Choose = Callable[[Sequence[str]], list[str]]
SERIES = {"primary_timeseries", "secondary_timeseries"}
TIMES = {"reference_time", "value_time"}
#: Columns that a table of each kind can have (`?`: or not); those that only we fill are not there.
KINDS = {
    "units": "name long_name?",
    "variables": "name long_name?",
    "configurations": "name type description?",
    "locations": "id name? geometry? longitude? latitude?",
    "attributes": "name type description?",
    "location_attributes": "location_id attribute_name value unit_name?",
    "location_crosswalks": "primary_location_id secondary_location_id",
    "primary_timeseries": (
        "reference_time? value_time value unit_name location_id configuration_name variable_name "
        "quality_code?"
    ),
    "secondary_timeseries": (
        "reference_time? value_time value unit_name location_id configuration_name variable_name "
        "member?"
    ),
}
#: By table and column: whether a file has to have it.
COLUMNS = {
    name: {column.rstrip("?"): not column.endswith("?") for column in text.split()}
    for name, text in KINDS.items()
}

PLACE = {"longitude", "latitude"}


def _columns(name: str) -> pa.Schema:
    """What `read` gives of a table, as far as the file has it."""
    kinds = dict.fromkeys(TIMES, TIME) | {"geometry": pa.binary()}
    if name in SERIES:
        kinds |= {"value": pa.float64()}
    columns = {c: kinds.get(c, pa.string()) for c in COLUMNS[name] if c not in PLACE}
    return pa.schema(columns | ({"raw_file_id": pa.string()} if name in SERIES else {}))


#: Each file has the units and names of who made it.
CONTRACT = Contract(
    tables={name: _columns(name) for name in COLUMNS},
    units={"*": ("*",)},
    configurations={"*": None},
    is_partial=True,
)


@dataclass(frozen=True)
class Layout:
    """How the fields of a file become the columns of a table.

    Parameters
    ----------
    table
        Table of the warehouse that the rows are for.
    fields
        Name in the file, by column; a column that is not named has its own name in the file.
    constants
        Text that a column has in all rows, by column.
    prefix
        Source of the locations, put before their ids: `usgs` makes `usgs-03171000`.
    timezone
        Zone of times that name none, as `UTC` or `America/Chicago`; NetCDF's are UTC by CF.
    missing
        Values that stand for none, besides null and NaN.

    Raises
    ------
    InvalidInput
        A table or column that files cannot be for.
    """

    table: str = "primary_timeseries"
    fields: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    timezone: str = ""
    missing: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.table not in COLUMNS:
            raise InvalidInput(f"no table {self.table!r} for files{nearest(self.table, COLUMNS)}")
        for column in (*self.fields, *self.constants):
            if column not in COLUMNS[self.table]:
                hint = nearest(column, COLUMNS[self.table])
                raise InvalidInput(f"{self.table} has no column {column!r} to map{hint}")


def fetch(
    uris: Sequence[str],
    *,
    dataset: str = "files",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land files from anywhere: `https://…`, paths, or any URI of fsspec, also as a pattern.

    Raises
    ------
    NotFound, Unavailable
        There is no such file, or its store does not answer.
    InvalidInput
        An empty file, a folder, or a URI of a kind that is not known.
    """
    return fetch_files("table", dataset, uris, lambda c: _kind(c)[0], settings or load(), progress)


def read(files: Iterable[RawFile], layout: Layout) -> dict[str, pa.Table]:
    """Rows of the files for one table of the warehouse.

    Raises
    ------
    InvalidInput
        A file is damaged, has no field for a column that the table needs, or a number or time that
        cannot be read; times without a zone where none is given.
    """
    parts, missing = [], 0
    for file in files:
        content = raw.read(file)
        with understood(file, "the CSV, Parquet or NetCDF-4 it should be", ADVICE):
            rows, left_out = _rows(content, file, layout)
        parts.append(rows)
        missing += left_out
    if not parts:
        return {}
    rows = pa.concat_tables(parts)
    return {layout.table: rows.replace_schema_metadata({"missing": str(missing)})}


def _rows(content: bytes, file: RawFile, layout: Layout) -> tuple[pa.Table, int]:
    known = COLUMNS[layout.table]

    def choose(names: Sequence[str]) -> list[str]:
        for column, name in layout.fields.items():
            if name not in names:
                raise ValueError(f"no field {name!r} for {column}{nearest(name, _few(names))}")
        wanted = {layout.fields.get(column, column) for column in known}
        chosen = [name for name in names if name in wanted]
        if not chosen:
            raise ValueError(f"none of its fields is asked for: {', '.join(_few(names))}")
        if twice := sorted({name for name in chosen if chosen.count(name) > 1}):
            raise ValueError(f"several fields are called {', '.join(twice)}")
        return chosen

    extension, opened = _kind(content)
    found = opened(content, choose)
    found.validate(full=True)
    zone = layout.timezone or ("UTC" if extension == "nc" else "")
    columns = {}
    for column in known:
        name = layout.fields.get(column, column)
        if column in layout.constants:
            constant = pa.scalar(layout.constants[column], pa.string())
            columns[column] = _typed(
                column, pa.repeat(constant, found.num_rows), layout, zone, file
            )
        elif name in found.column_names:
            columns[column] = _typed(column, found[name], layout, zone, file)
    lacking = [c for c, is_needed in known.items() if is_needed and c not in columns]
    if len(half := PLACE & columns.keys()) == 1:
        lacking += PLACE - half
    if lacking:
        raise InvalidInput(
            f"{file.url} has no field for {', '.join(lacking)}: map one, or set a text for all rows"
        )
    if columns.keys() >= PLACE:
        columns["geometry"] = points(columns.pop("longitude"), columns.pop("latitude"))
    if layout.table in SERIES:
        columns["raw_file_id"] = pa.repeat(pa.scalar(file.id), found.num_rows)
    rows = pa.table(columns)
    if layout.table not in SERIES:
        return rows, 0
    none = pc.is_in(rows["value"], pa.array([float("nan"), *layout.missing], pa.float64()))
    present = pc.and_(pc.is_valid(rows["value"]), pc.invert(none))
    return rows.filter(present), rows.num_rows - pc.sum(present, min_count=0).as_py()


def _typed(column: str, values: Any, layout: Layout, zone: str, file: RawFile) -> Any:
    """The values as the type of the column."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    try:
        if column in TIMES:
            return _times(values, zone)
        if column in PLACE or (column == "value" and layout.table in SERIES):
            return values.cast(pa.float64())
        if column == "geometry":
            return values.cast(pa.binary())
        is_name = column != "value"
        if is_name and pa.types.is_floating(values.type) and values.null_count < len(values):
            raise pa.ArrowInvalid("numbers with decimals are no names: map a field of text")
        values = values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidInput(f"{file.url}: {column} cannot be read: {error}") from None
    is_place = column.endswith("location_id") or (layout.table, column) == ("locations", "id")
    return (
        pc.binary_join_element_wise(layout.prefix, values, "-")
        if layout.prefix and is_place
        else values
    )


def _times(values: Any, zone: str) -> Any:
    """UTC, from times that name their zone, or that are of this zone."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        try:
            return values.cast(TIME)
        except pa.ArrowInvalid:  # texts without a zone
            values = values.cast(pa.timestamp("us"))
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        raise pa.ArrowInvalid("numbers are no times: map a field of times or of text")
    if pa.types.is_null(values.type) or getattr(values.type, "tz", None):
        return values.cast(TIME)
    if not zone:
        raise pa.ArrowInvalid("the times name no zone; say which it is, as --timezone UTC")
    # An hour that a clock showed twice, or never, is refused here.
    return pc.assume_timezone(values.cast(pa.timestamp("us")), zone).cast(TIME)


def _kind(content: bytes) -> tuple[str, Callable[[bytes, Choose], pa.Table]]:
    """Extension and reader, by the first bytes."""
    for start, kind in {
        b"PAR1": ("parquet", _parquet),
        b"\x89HDF": ("nc", _netcdf),
        b"CDF": ("nc", _classic),
        b"\x1f\x8b": ("csv.gz", _gzipped),
    }.items():
        if content.startswith(start):
            return kind
    return "csv", _csv


def _parquet(content: bytes, choose: Choose) -> pa.Table:
    file = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
    return file.read(choose(file.schema_arrow.names))


def _gzipped(content: bytes, choose: Choose) -> pa.Table:
    return _csv(gzip.decompress(content), choose)


def _csv(content: bytes, choose: Choose) -> pa.Table:
    """All fields as text, so that an identifier keeps its zeros."""
    if not content.endswith(b"\n"):
        raise ValueError("its last line does not end, it may have been cut short")
    head = content[: content.index(b"\n")].decode("utf-8-sig")
    delimiter = max(",;\t", key=head.count)
    names = [name.strip().strip('"') for name in head.strip().split(delimiter)]
    chosen = choose(names)
    return csv.read_csv(
        pa.BufferReader(content),
        read_options=csv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=csv.ParseOptions(delimiter=delimiter),
        convert_options=csv.ConvertOptions(
            include_columns=chosen,
            column_types=dict.fromkeys(chosen, pa.string()),
            strings_can_be_null=True,
        ),
    )


def _netcdf(content: bytes, choose: Choose) -> pa.Table:
    """Variables and coordinates, one row for each point of the dimensions that they span."""
    import xarray as xr

    with xr.open_dataset(io.BytesIO(content), engine="h5netcdf") as dataset:
        chosen = choose([str(name) for name in dataset.variables])
        frame = dataset[chosen].to_dataframe().reset_index()
    columns = {name: frame[name].to_numpy() for name in chosen}
    return pa.table({name: _plain(values) for name, values in columns.items()})


def _classic(content: bytes, choose: Choose) -> pa.Table:
    raise ValueError("it is NetCDF-3: `nccopy -k nc4 old.nc new.nc` makes it NetCDF-4")


def _plain(values: Any) -> pa.Array:
    """Text that NetCDF keeps as bytes is text."""
    if values.dtype == object and len(values) and isinstance(values[0], bytes):
        values = np.array([value.decode().strip() for value in values], dtype=object)
    return pa.array(values)


def _few(names: Sequence[str]) -> list[str]:
    """As much as one line bears of what may be names, or a file of another kind."""
    return [name[:40] for name in names[:20]]
