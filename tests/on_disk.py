"""A raw file on this machine's disk, in no registry: for the tests of what is read of it."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

from thalweg.raw import RawFile


def raw_file(folder: Path, content: bytes, url: str, source: str, dataset: str) -> RawFile:
    path = folder / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    return RawFile(
        id=path.name, source=source, dataset=dataset, uri=f"file://{path}", url=url,
        sha256=path.name, size=len(content), headers={}, valid_from=None, valid_to=None,
        run_id=None, ingested_at=dt.datetime.now(dt.UTC),
    )  # fmt: skip
