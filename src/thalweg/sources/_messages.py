"""Some messages of remote GRIB files, by the byte ranges that an index beside them gives."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass

from thalweg import http, raw
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.raw import RawFile
from thalweg.settings import Settings
from thalweg.sources._common import Progress, workers

__all__ = ["Part", "RemoteGrib", "fetch_messages"]

#: First byte and the one after the last; None: to the end of the file.
Part = tuple[int, int | None]


@dataclass(frozen=True)
class RemoteGrib:
    """A GRIB file on a server, its index, and the time for which its fields hold."""

    url: str
    index: str
    valid: dt.datetime


def fetch_messages(
    source: str,
    dataset: str,
    wanted: Sequence[RemoteGrib],
    choose: Callable[[str], list[Part]],
    settings: Settings,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land the chosen messages of each file that is there, four files at a time.

    What lands are whole messages, byte by byte as in the file, with their ranges in the header
    `range`. Messages that have landed before, by URL, ETag and ranges, are not fetched again.

    Parameters
    ----------
    choose
        From the text of an index to the parts wanted of its file.

    Raises
    ------
    NotFound
        None of the files is there, or none has such a message.
    Unavailable
        The server does not answer, or a file changed while it was fetched.
    """
    landed = {
        (f.url, f.headers.get("etag"), f.headers.get("range")): f
        for f in raw.find(source, dataset, None, settings)
    }

    def land(client: http.Client, item: RemoteGrib) -> RawFile:
        parts = _joined(choose(_text(client.get(item.index))))
        if not parts:
            raise NotFound(f"{item.index} lists none of the fields asked for")
        # Four bytes, to hear the file's ETag and to see that it is GRIB.
        first = client.get(item.url, part=(parts[0][0], parts[0][0] + 4))
        if first.content != b"GRIB":
            raise InvalidInput(f"{item.url} has no message where {item.index} says; try later")
        ranges = ",".join(f"{start}-{'' if end is None else end - 1}" for start, end in parts)
        headers = dict(first.headers) | {"range": f"bytes={ranges}"}
        headers.pop("content-range", None)
        if earlier := landed.get((item.url, headers.get("etag"), headers["range"])):
            return earlier
        answers = [client.get(item.url, part=part) for part in parts]
        if any(a.headers.get("etag") != first.headers.get("etag") for a in answers):
            raise Unavailable(f"{item.url} changed while it was fetched; fetch it again")
        content = b"".join(answer.content for answer in answers)
        headers["content-length"] = str(len(content))
        return raw.land(
            source, dataset, content, extension="grib2", url=item.url, headers=headers,
            valid_from=item.valid, valid_to=item.valid, settings=settings,
        )  # fmt: skip

    files, nothing = {}, NotFound(f"{source} was asked for no file")
    with http.Client() as client, workers(4) as pool:
        futures = {pool.submit(land, client, item): i for i, item in enumerate(wanted)}
        for done, future in enumerate(as_completed(futures), start=1):
            try:
                files[futures[future]] = future.result()
            except NotFound as error:  # others may be there
                nothing = error
            if progress:
                progress(done, len(wanted))
    if not files:
        raise nothing
    return [files[i] for i in sorted(files)]


def _text(answer: http.Answer) -> str:
    try:
        return answer.content.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{answer.url} is no index: it is not text; try later") from None


def _joined(parts: Iterable[Part]) -> list[Part]:
    """Parts in order, those that touch as one."""
    joined: list[Part] = []
    for start, end in sorted(set(parts), key=lambda part: (part[0], part[1] is None, part[1] or 0)):
        last = joined[-1] if joined else None
        if last and (last[1] is None or start <= last[1]):
            far = None if end is None or last[1] is None else max(end, last[1])
            joined[-1] = (last[0], far)
        else:
            joined.append((start, end))
    return joined
