"""Data files: rows written to new ones, read whole, and one commit that puts some for others."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, pairwise
from operator import is_
from typing import Any

import numpy as np
import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import (
    ArrowScan,
    _dataframe_to_data_files,
    pyarrow_to_schema,
    write_file,
)
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.table import FileScanTask, Table, Transaction, WriteTask
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import (
    ExpireSnapshots,
    _FastAppendFiles,
    _MergeAppendFiles,
    _OverwriteFiles,
    _SnapshotProducer,
)

from thalweg.warehouse.schema import TableDefinition

__all__ = ["append", "end", "exchange", "months", "rows_of", "take", "write", "write_as_read"]

THREADS = 4


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
    """Rows in new files, one a month; PyIceberg itself goes through all rows for each month."""
    # A column that came later may be null in rows that were there before.
    needed = {field.name for field in found.schema().fields if field.required}
    may = pa.schema(field.with_nullable(field.name not in needed) for field in declared.arrow)
    if found.spec().fields != declared.partition_spec.fields:  # others have laid it out anew
        yield from write_as_read(found, rows.cast(may))
        return
    schema = pyarrow_to_schema(may, name_mapping=found.schema().name_mapping)
    commit = uuid.uuid4()

    def written(number: int, part: tuple[PartitionKey | None, pa.Table]) -> list[DataFile]:
        key, rows = part
        batches = rows.cast(may).combine_chunks().to_batches()
        task = WriteTask(commit, number, schema, batches, partition_key=key)
        return list(write_file(found.io, found.metadata, iter([task])))

    with ThreadPoolExecutor(THREADS) as pool:
        for files in pool.map(written, count(), _by_month(found, rows, declared.month_of)):
            yield from files


def _by_month(
    found: Table, rows: pa.Table, column: str | None
) -> Iterator[tuple[PartitionKey | None, pa.Table]]:
    """The rows of each month, in the order that they have; all at once without a column of time."""
    if column is None:
        yield None, rows
        return
    number = months(rows[column])
    order = np.argsort(number, kind="stable")
    rows, number = take(rows, pa.array(order)), number[order]
    ends = [*np.flatnonzero(np.diff(number)) + 1, len(number)]
    for start, end in pairwise([0, *ends]):
        value = PartitionFieldValue(found.spec().fields[0], int(number[start]))
        key = PartitionKey([value], found.spec(), found.schema())
        yield key, rows.slice(start, end - start)


def months(times: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Months since January 1970; 16 bits, which numpy sorts fastest."""
    number: np.ndarray[Any, np.dtype[np.int16]] = (
        times.to_numpy().astype("datetime64[M]").astype(np.int16)
    )
    return number


def take(rows: pa.Table, numbers: pa.ChunkedArray | pa.Array) -> pa.Table:
    """These rows, in this order; without a copy where they are all, in order."""
    order = numbers.to_numpy()
    return rows if np.array_equal(order, np.arange(rows.num_rows)) else rows.take(numbers)
