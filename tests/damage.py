"""A real file, damaged in the ways in which files are: for the tests of whoever reads files."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator

ERROR_PAGE = b"<!DOCTYPE html>\n<html><head><title>503 Service Unavailable</title></head></html>\n"
OTHER_TYPES = {"JSON": b'{"message": "the key has expired"}', "CSV": b"time,value\n1,2\n"}


def damaged(content: bytes, places: int = 20) -> Iterator[tuple[str, bytes]]:
    """What was done, and the file after it: cut, flipped, emptied, another file under its name.

    The places are the same at each call, spread over the whole file.
    """
    choose = random.Random(20210823)  # noqa: S311
    for i in range(places):
        cut = len(content) * i // places + choose.randrange(max(1, len(content) // places))
        yield f"cut after {cut} of {len(content)} bytes", content[:cut]
    for _ in range(places):
        at = choose.randrange(len(content))
        flipped = bytes([content[at] ^ 0xFF])
        yield f"byte {at} flipped", content[:at] + flipped + content[at + 1 :]
    yield "emptied", b""
    yield "an HTML error page", ERROR_PAGE
    yield "zeros", bytes(len(content))
    for type, other in OTHER_TYPES.items():
        yield f"{type} under this name", other
    yield "a ZIP archive under this name", _archive()


def _archive() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("readme.txt", "The files are elsewhere.\n")
    return packed.getvalue()
