"""Numbers in the place of keys and texts: by them rows are sorted, compared and joined faster."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["is_text", "key_codes", "last_of_each", "once_each"]

Numbers = np.ndarray[Any, np.dtype[np.int64]]
MOST_CODES = 2**62
# Up to so many codes a row are laid out side by side, which is faster than to sort them.
ROOM = 8


def key_codes(rows: pa.Table, key: tuple[str, ...]) -> Numbers:
    """A number for each row: in order of the key, null last, and equal where the key is."""
    codes = np.zeros(rows.num_rows, np.int64)
    if not rows.num_rows:
        return codes  # Arrow cannot join no chunks
    size = 1
    for column in key:
        values = rows[column].dictionary_encode().unify_dictionaries().combine_chunks()
        count = len(values.dictionary)
        if count + bool(values.null_count) <= 1:
            continue  # the same in all rows
        rank = np.full(count + 1, count)
        rank[pc.sort_indices(values.dictionary).to_numpy()] = np.arange(count)
        if size * (count + 1) > MOST_CODES:
            distinct, codes = np.unique(codes, return_inverse=True)
            size = len(distinct)
        codes = codes * (count + 1) + rank[values.indices.fill_null(count).to_numpy()]
        size *= count + 1
    return codes


def last_of_each(codes: Numbers) -> Numbers:
    """Where each code stands for the last time, in order of the codes."""
    if codes.size and codes.max() < ROOM * codes.size:
        last = np.full(codes.max() + 1, -1)
        last[codes] = np.arange(codes.size)  # of several the last one counts
        order, is_last = last, last >= 0
    else:
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        is_last = np.append(codes[1:] != codes[:-1], True)[: codes.size]
    return np.compress(is_last, order)


def is_text(type: pa.DataType) -> bool:
    """Whether it is text, as pandas, Polars or Arrow have it, each text written out."""
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(kind(type) for kind in kinds)


def once_each(rows: pa.Table) -> pa.Table:
    """The rows with each text once, and numbers of texts in its place."""
    texts = [field.name for field in rows.schema if is_text(field.type)]
    with ThreadPoolExecutor() as pool:
        encoded = pool.map(lambda name: rows[name].cast(pa.string()).dictionary_encode(), texts)
        columns = dict(zip(rows.column_names, rows.columns, strict=True)) | dict(
            zip(texts, encoded, strict=True)
        )
    return pa.table(columns).unify_dictionaries()
