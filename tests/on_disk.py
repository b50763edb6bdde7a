"""Raw files on this machine's disk, in no registry: for the tests of what is read of them."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import h5py

from thalweg.raw import RawFile


def raw_file(folder: Path, content: bytes, url: str, source: str, dataset: str) -> RawFile:
    path = folder / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    return RawFile(
        id=path.name, source=source, dataset=dataset, uri=f"file://{path}", url=url,
        sha256=path.name, size=len(content), headers={}, valid_from=None, valid_to=None,
        run_id=None, ingested_at=dt.datetime.now(dt.UTC),
    )  # fmt: skip


def edited(content: bytes, edit: Callable[[h5py.File], object]) -> bytes:
    """The NetCDF file after `edit(h5py file)`."""
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        edit(file)
    return buffer.getvalue()
