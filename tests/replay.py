"""Files as the open buckets give them, out of a folder; and ECMWF's forecasts laid out in one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyproj  # noqa: F401  # before ecCodes, as the library does

from thalweg.sources import _grib

eccodes = _grib.eccodes


@dataclass(frozen=True)
class Replay:
    """A folder, the address of the server that gives its files, and what was asked of it."""

    folder: Path
    url: str
    asked: list[str]

    def put(self, path: str, content: bytes) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


class Files(SimpleHTTPRequestHandler):
    """Files of a folder with ETag and byte ranges."""

    asked: list[str]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        content, given = path.read_bytes(), self.headers.get("Range")
        self.asked.append(f"{path.name} {given or ''}".strip())
        if given:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", given).groups()
            part = content[int(first) : int(last) + 1 if last else None]
            self.send_response(206)
            place = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self.send_header("Content-Range", place)
        else:
            part = content
            self.send_response(200)
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def replay(folder: Path) -> Iterator[Replay]:
    """Serve a folder on this machine."""
    asked: list[str] = []
    handler = partial(type("Asked", (Files,), {"asked": asked}), directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Replay(folder, f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        server.server_close()


def messages(path: Path) -> Iterator[eccodes.GRIBMessage]:
    """The messages of a GRIB file."""
    eccodes.codes_grib_multi_support_on()
    with path.open("rb") as stream:
        eccodes.codes_grib_multi_support_reset_file(stream)
        while (handle := eccodes.codes_grib_new_from_file(stream)) is not None:
            yield eccodes.GRIBMessage(handle)


def lay_out_ifs(
    bucket: Replay,
    path: Path,
    before: Sequence[tuple[str, bytes]] = (),
    behind: Sequence[tuple[str, bytes]] = (),
) -> None:
    """The real messages as ECMWF has them, with fields that nobody asked for around them."""
    for step in (0, 3):
        content, lines = b"", []
        parts = [(m["shortName"], bytes(m.get_buffer())) for m in messages(path)
                 if m["endStep:int"] == step]  # fmt: skip
        for name, part in [*before, *parts, *behind]:
            lines.append({"param": name, "levtype": "sfc", "step": str(step),
                          "_offset": len(content), "_length": len(part)})  # fmt: skip
            content += part
        lines.append({"param": "t", "levtype": "pl", "levelist": "850", "_offset": 0, "_length": 1})
        stem = f"20260316/00z/ifs/0p25/oper/20260316000000-{step}h-oper-fc"
        bucket.put(f"{stem}.grib2", content)
        bucket.put(f"{stem}.index", "\n".join(map(json.dumps, lines)).encode())
