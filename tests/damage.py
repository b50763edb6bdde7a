"""A real file, damaged in the ways in which files are: for the tests of whoever reads files."""

from __future__ import annotations

import random
from collections.abc import Iterator

ERROR_PAGE = b"<!DOCTYPE html>\n<html><head><title>503 Service Unavailable</title></head></html>\n"


def damaged(content: bytes, places: int = 20) -> Iterator[tuple[str, bytes]]:
    """What was done, and the file after it: cut, flipped, emptied, replaced by an error page.

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
