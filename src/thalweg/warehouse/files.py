"""Data files: rows written to new ones, read whole, and one commit that puts some for others."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, pairwise
from operator import is_
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import (
    ArrowScan,
    ParquetFormatWriter,
    _dataframe_to_data_files,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.table import FileScanTask, Table, Transaction, WriteTask
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import (
    ExpireSnapshots,
    _FastAppendFiles,
    _MergeAppendFiles,
    _OverwriteFiles,
    _SnapshotProducer,
)
from pyiceberg.typedef import Record

from thalweg.codes import key_codes, last_of_each
from thalweg.warehouse.schema import TableDefinition

__all__ = [
    "append",
    "by_month",
    "each_month",
    "end",
    "exchange",
    "months",
    "rows_of",
    "take",
    "write",
    "write_as_read",
]

THREADS = 4
#: Rows that are looked at together where that needs room: new memory is slower than the work.
BLOCK = 2**17
Months = np.ndarray[Any, np.dtype[np.int16]] | np.ndarray[Any, np.dtype[np.int32]]
T = TypeVar("T")


class _Transaction(Transaction):
    """Makes the new metadata once; PyIceberg copies that of all snapshots at every look at it."""

    _made: tuple[tuple[object, object], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata with what was staged so far."""
        made_of = (self._table.metadata, self._updates)
        if self._made is None or not all(map(is_, self._made[0], made_of)):
            self._made = (made_of, super().table_metadata)
        return self._made[1]


class _Exchange(_OverwriteFiles, _MergeAppendFiles):
    """Files in the place of others; as after an append, many small manifests become one."""

    _validate_concurrency = _SnapshotProducer._validate_concurrency


@contextmanager
def append(found: Table) -> Iterator[_FastAppendFiles]:
    """One snapshot, which adds files to the state that was read."""
    with (
        _Transaction(found) as transaction,
        transaction.update_snapshot().merge_append() as update,
    ):
        yield update


@contextmanager
def exchange(
    found: Table, properties: Mapping[str, str] | None = None
) -> Iterator[_OverwriteFiles]:
    """One snapshot, which takes files away and adds others to the state that was read."""
    with (
        _Transaction(found) as transaction,
        _Exchange(
            Operation.OVERWRITE, transaction, found.io, snapshot_properties={**(properties or {})}
        ) as update,
    ):
        yield update


def end(found: Table, snapshot_ids: list[int]) -> None:
    """One commit, after which these snapshots are no more."""
    with _Transaction(found) as transaction, ExpireSnapshots(transaction) as update:
        update.by_ids(snapshot_ids)


def rows_of(found: Table, tasks: Iterable[FileScanTask]) -> pa.Table:
    """All rows of some files, but for those that row-level deletes have taken."""
    return ArrowScan(found.metadata, found.io, found.schema(), AlwaysTrue()).to_table(tasks)


def write_as_read(found: Table, rows: pa.Table) -> list[DataFile]:
    """Rows as the table has them, others' columns too, in new files."""
    return list(_dataframe_to_data_files(found.metadata, rows, found.io)) if rows.num_rows else []


def write(found: Table, rows: pa.Table, declared: TableDefinition) -> Iterator[DataFile]:
    """Rows in new files, one a month, in order of the key.

    PyIceberg itself goes through all rows for each month, and through texts written out. Only here
    a month is put in order: the room that this takes is soon free for the next.
    """
    if found.spec().fields != declared.partition_spec.fields:  # others have laid it out anew
        yield from write_as_read(found, declared.plain(rows))
        return
    rows = _as_stored(found, rows)
    place = load_location_provider(found.location(), found.properties)
    commit = uuid.uuid4()

    def written(number: int, part: tuple[int | None, pa.Table]) -> DataFile:
        month, rows = part
        key = None if month is None else _of_month(found, month)
        name = WriteTask(commit, number, found.schema(), [], partition_key=key)
        path = place.new_data_location(name.generate_data_file_filename("parquet"), key)
        output = found.io.new_output(path)
        with _Writer(output, found.schema(), found.properties) as writer:
            order = last_of_each(key_codes(rows, declared.key))
            writer.write(_compact(take(rows, pa.array(order))))
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=path,
            file_format=FileFormat.PARQUET,
            partition=key.partition if key else Record(),
            file_size_in_bytes=len(output),
            spec_id=found.spec().spec_id,
            **writer.result().to_serialized_dict(),
        )

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(written, count(), by_month(rows, declared.month_of))


class _Writer(ParquetFormatWriter):
    """Takes texts as dictionaries; in the file they are texts as any other."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._parquet_writer_kwargs["store_schema"] = False  # Arrow would remember dictionaries


def _as_stored(found: Table, rows: pa.Table) -> pa.Table:
    """The rows with the columns and field ids of the table; what others have added is null."""
    fields, columns = [], []
    for field in schema_to_pyarrow(found.schema()):
        values = rows[field.name] if field.name in rows.column_names else None
        if values is None:
            values = pa.nulls(rows.num_rows, field.type)
        elif pa.types.is_dictionary(values.type):
            field = field.with_type(values.type)
        fields.append(field)
        columns.append(values.cast(field.type))
    return pa.table(columns, schema=pa.schema(fields))


def _compact(rows: pa.Table) -> pa.Table:
    """The rows in one piece, with no other texts in their dictionaries than occur."""
    rows = rows.combine_chunks()
    for i, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            texts = rows[i].combine_chunks()
            if len(texts.dictionary) <= 1:
                continue
            used = texts.indices.unique().drop_null()
            if len(used) < len(texts.dictionary):
                numbers = pc.index_in(texts.indices, used)
                texts = pa.DictionaryArray.from_arrays(numbers, texts.dictionary.take(used))
                rows = rows.set_column(i, field, texts)
    return rows


def _of_month(found: Table, month: int) -> PartitionKey:
    return PartitionKey(
        [PartitionFieldValue(found.spec().fields[0], month)], found.spec(), found.schema()
    )


def each_month(rows: pa.Table, column: str | None, work: Callable[[pa.Table], T]) -> list[T]:
    """What some work makes of the rows of each month, in order; several months at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, (part for _, part in by_month(rows, column))))


def by_month(rows: pa.Table, column: str | None) -> Iterator[tuple[int | None, pa.Table]]:
    """The rows of each month, in the order that they have; all at once without a column of time."""
    if column is None:
        yield None, rows
        return
    number = months(rows[column])
    if (number[1:] < number[:-1]).any():
        order = np.argsort(number, kind="stable")
        rows, number = rows.take(pa.array(order)), number[order]
    ends = [*np.flatnonzero(np.diff(number)) + 1, len(number)]
    for start, end in pairwise([0, *ends]):
        if end > start:
            yield int(number[start]), rows.slice(start, end - start)


def months(times: pa.ChunkedArray) -> Months:
    """Months since January 1970, which null is too."""
    blocks = (times.slice(start, BLOCK) for start in range(0, len(times), BLOCK))
    return np.concatenate([np.zeros(0, np.int16), *map(_months, blocks)])


def _months(times: pa.ChunkedArray) -> Months:
    """In 16 bits where they fit, for numpy sorts these fastest; by the day, for days are few."""
    if times.null_count:
        times = times.fill_null(pa.scalar(0, times.type))
    days = times.to_numpy().astype("datetime64[D]")
    first, last = days.min(), days.max()
    if (last - first).astype(int) > BLOCK:
        return _small(days)
    of_days: Months = _small(np.arange(first, last + 1))[(days - first).astype(int)]
    return of_days


def _small(days: np.ndarray[Any, Any]) -> Months:
    months = days.astype("datetime64[M]").astype(np.int32)
    small = months.astype(np.int16)
    return small if (small == months).all() else months


def take(rows: pa.Table, numbers: pa.ChunkedArray | pa.Array) -> pa.Table:
    """These rows, in this order; without a copy where they are all, in order."""
    order = numbers.to_numpy()
    return rows if np.array_equal(order, np.arange(rows.num_rows)) else rows.take(numbers)
