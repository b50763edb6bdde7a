from __future__ import annotations

import gzip
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from thalweg import http
from thalweg.errors import InvalidInput, NotFound, Unavailable

FILE = random.Random(1).randbytes(100_000)  # noqa: S311
KEY = "a-key-of-nobody-else"
Act = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A real server that plays what it is given, request by request; the last act stays."""

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.asked: list[dict[str, str]] = []
        self.times: list[float] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.times.append(time.monotonic())
                names = {name.lower(): value for name, value in self.headers.items()}
                outer.asked.append(names | {"path": self.path})
                act = outer.acts.pop(0) if len(outer.acts) > 1 else outer.acts[0]
                act(self)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.origin = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.origin}/file.bin"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    yield served
    served.close()


@pytest.fixture
def client() -> Iterator[http.Client]:
    with http.Client(first_wait=0.001, longest_wait=0.02, timeout=5) as made:
        yield made


def says(
    status: int = 200,
    body: bytes = b"",
    length: int | None = None,
    **headers: str,
) -> Act:
    """Answer; with a length greater than that of the body, hang up after the body."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = length is not None

    return act


def gives(
    content: bytes = FILE, cut: int | None = None, etag: str | None = '"1"', **headers: str
) -> Act:
    """A server of files that knows ranges; it hangs up after `cut` bytes."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        mark = handler.headers.get("If-Range")
        validators = {"ETag": etag} if etag else {}
        if asked is None or (mark is not None and mark not in (etag, headers.get("Last_Modified"))):
            body = content
            says(200, body[:cut], len(body), **validators, **headers)(handler)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(content)) + 1, len(content))
        if start >= len(content):
            says(416, Content_Range=f"bytes */{len(content)}")(handler)
            return
        body = content[start:stop]
        place = f"bytes {start}-{stop - 1}/{len(content)}"
        says(206, body[:cut], len(body), Content_Range=place, **validators, **headers)(handler)

    return act


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def test_bytes_and_headers_are_those_of_the_server(server: Server, client: http.Client) -> None:
    server.acts = [gives(X_Said="yes", Set_Cookie="session=1")]
    steps: list[tuple[int, int | None]] = []
    answer = client.get(server.url, {"a": "1 2"}, progress=lambda *step: steps.append(step))
    assert answer.content == FILE
    assert answer.url == f"{server.url}?a=1+2"
    assert server.asked[0]["path"] == "/file.bin?a=1+2"
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["x-said"] == "yes"
    assert answer.headers["content-length"] == "100000"
    assert "set-cookie" not in answer.headers
    assert steps[-1] == (100_000, 100_000)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: Server, client: http.Client, status: int) -> None:
    server.acts = [says(status), hangs_up, gives()]
    assert client.get(server.url).content == FILE
    assert len(server.asked) == 3


def test_the_waits_grow_and_have_jitter(server: Server) -> None:
    server.acts = [says(503)]
    with (
        http.Client(first_wait=0.05, longest_wait=0.4) as client,
        pytest.raises(Unavailable, match=r"503 Service Unavailable after 5 attempts"),
    ):
        client.get(server.url)
    waits = [b - a for a, b in itertools.pairwise(server.times)]
    # At least 0.05 s · 2^n each; the jitter makes no two series alike.
    assert all(
        wait >= at_least for wait, at_least in zip(waits, (0.05, 0.1, 0.2, 0.4), strict=True)
    )
    assert len({round(wait / 0.05 % 1, 6) for wait in waits}) > 1


def test_retry_after_is_honoured(server: Server) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.acts = [says(429, Retry_After="1"), says(503, Retry_After=soon), gives()]
    with http.Client(first_wait=0.001) as client:
        assert client.get(server.url).content == FILE
    first, second, third = server.times
    assert second - first >= 1
    assert third - first >= 1.0  # a date has no fractions of a second: the second may be over

    server.acts = [says(429, Retry_After="1800")]
    with (
        http.Client(longest_wait=60) as client,
        pytest.raises(Unavailable, match="429 Too Many Requests, come back in 1800 s after 1 att"),
    ):
        client.get(server.url)


def test_what_asking_again_cannot_help_is_said_at_once(server: Server, client: http.Client) -> None:
    for status, error in [
        (404, NotFound),
        (410, NotFound),
        (400, InvalidInput),
        (403, InvalidInput),
    ]:
        server.acts = [says(status)]
        server.asked.clear()
        with pytest.raises(error, match=str(status)):
            client.get(server.url)
        assert len(server.asked) == 1
    server.acts = [says(403)]
    with pytest.raises(InvalidInput, match=r"\?site=1 is refused") as refused:
        client.get(f"{server.url}?site=1&X-Amz-Signature={KEY}")
    assert KEY not in str(refused.value)
    for url in ("ftp://127.0.0.1/x", "file.bin", "http://127.0.0.1:port/"):
        with pytest.raises(InvalidInput, match="cannot ask for"):
            client.get(url)


def test_nobody_there_is_unavailable(client: http.Client) -> None:
    with pytest.raises(Unavailable, match="after 5 attempts"):
        client.get("http://127.0.0.1:9/")


def test_silence_is_not_waited_for(server: Server) -> None:
    server.acts = [lambda handler: time.sleep(1), gives()]
    with http.Client(first_wait=0.001, timeout=0.5) as client:
        assert client.get(server.url).content == FILE


def test_a_cut_download_goes_on_where_it_was_cut(server: Server, client: http.Client) -> None:
    server.acts = [gives(cut=30_000), says(503), gives(cut=30_000), gives()]
    answer = client.get(server.url)
    assert answer.content == FILE
    assert answer.headers["content-length"] == "100000"
    assert [asked.get("range") for asked in server.asked] == [
        None,
        "bytes=30000-",
        "bytes=30000-",
        "bytes=60000-",
    ]
    assert {asked.get("if-range") for asked in server.asked[1:]} == {'"1"'}


def test_progress_makes_attempts_count_anew(server: Server, client: http.Client) -> None:
    server.acts = [gives(cut=5_000)]
    assert client.get(server.url).content == FILE
    assert len(server.asked) == 20


def test_a_file_that_changed_on_its_way_begins_anew(server: Server, client: http.Client) -> None:
    other = FILE[::-1]
    server.acts = [gives(cut=30_000), gives(other, etag='"2"')]
    answer = client.get(server.url)
    assert answer.content == other
    assert answer.headers["etag"] == '"2"'


def test_a_server_that_ignores_if_range_is_caught(server: Server, client: http.Client) -> None:
    other = FILE[::-1]

    def ignorant(handler: BaseHTTPRequestHandler) -> None:
        del handler.headers["If-Range"]
        gives(other, etag='"2"')(handler)

    server.acts = [gives(cut=30_000), ignorant]
    assert client.get(server.url).content == other


@pytest.mark.parametrize(
    "unsure", [{"etag": None}, {"etag": 'W/"1"'}, {"etag": '"1"', "Accept_Ranges": "none"}]
)
def test_without_a_mark_nothing_is_pieced_together(
    server: Server, client: http.Client, unsure: dict[str, str]
) -> None:
    server.acts = [gives(cut=30_000, **unsure), gives(**unsure)]
    assert client.get(server.url).content == FILE
    assert all("range" not in asked for asked in server.asked)

    server.acts = [gives(cut=30_000, **unsure)]
    with pytest.raises(Unavailable, match="after 5 attempts"):
        client.get(server.url)


def test_a_date_is_a_mark_too(server: Server, client: http.Client) -> None:
    date = {"etag": None, "Last_Modified": "Mon, 23 Aug 2021 13:00:00 GMT"}
    server.acts = [gives(cut=30_000, **date), gives(**date)]
    assert client.get(server.url).content == FILE
    assert server.asked[1]["if-range"] == "Mon, 23 Aug 2021 13:00:00 GMT"


def test_what_was_whole_before_the_line_was_cut(server: Server, client: http.Client) -> None:
    """All bytes are there, but not the end of the transfer: asked for more, the server has none."""

    def no_last_chunk(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"1"')
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(FILE), FILE))
        handler.close_connection = True

    server.acts = [no_last_chunk, gives()]
    assert client.get(server.url).content == FILE
    assert [asked.get("range") for asked in server.asked] == [None, "bytes=100000-", None]


def test_compressed_in_transport_is_plain_here(server: Server, client: http.Client) -> None:
    packed = {"Content_Encoding": "gzip", "Content_Type": "application/json"}
    small = gzip.compress(FILE)
    server.acts = [gives(small, cut=30_000, **packed), gives(small, **packed)]
    answer = client.get(server.url)
    assert answer.content == FILE
    assert answer.headers["content-encoding"] == "gzip"
    assert server.asked[1]["range"] == "bytes=30000-"

    server.acts = [gives(small[:-9] + b"x" * 9, **packed), gives(small, **packed)]
    assert client.get(server.url).content == FILE


@pytest.mark.parametrize(
    ("part", "asked"),
    [((10, 20), "bytes=10-19"), ((0, 1), "bytes=0-0"), ((99_990, None), "bytes=99990-")],
)
def test_parts(
    server: Server, client: http.Client, part: tuple[int, int | None], asked: str
) -> None:
    server.acts = [gives()]
    assert client.get(server.url, part=part).content == FILE[part[0] : part[1]]
    assert server.asked[0]["range"] == asked
    assert server.asked[0]["accept-encoding"] == "identity"


def test_a_cut_part_goes_on_too(server: Server, client: http.Client) -> None:
    server.acts = [gives(cut=1_000), gives(cut=1_000), gives()]
    assert client.get(server.url, part=(50_000, 60_000)).content == FILE[50_000:60_000]
    assert [asked["range"] for asked in server.asked] == [
        "bytes=50000-59999",
        "bytes=51000-59999",
        "bytes=52000-59999",
    ]


def test_a_part_of_a_server_without_parts(server: Server, client: http.Client) -> None:
    server.acts = [says(200, FILE)]
    assert client.get(server.url, part=(50_000, 60_000)).content == FILE[50_000:60_000]
    server.acts = [says(206, FILE[:10], Content_Range="bytes 0-9/100000")]
    with pytest.raises(Unavailable, match="other bytes than were asked for"):
        client.get(server.url, part=(50_000, 60_000))
    server.acts = [says(206, FILE[:10])]  # some part, but it does not say which
    with pytest.raises(Unavailable, match="other bytes than were asked for"):
        client.get(server.url, part=(50_000, 60_000))
    server.acts = [gives(FILE[:100])]
    with pytest.raises(InvalidInput, match="416"):
        client.get(server.url, part=(50_000, 60_000))
    for nonsense in ((-1, 5), (5, 5), (6, 5), (0, 0)):
        with pytest.raises(InvalidInput, match="no part of a file"):
            client.get(server.url, part=nonsense)


def test_less_than_a_part_is_not_enough(server: Server, client: http.Client) -> None:
    """A server may give less than the range; the rest is asked for."""
    short = says(206, FILE[:400], Content_Range="bytes 0-399/100000", ETag='"1"')
    server.acts = [short, gives()]
    assert client.get(server.url, part=(0, 1000)).content == FILE[:1000]
    assert server.asked[1]["range"] == "bytes=400-999"


def test_a_page_in_place_of_data_is_taken_for_a_passing_failure(
    server: Server, client: http.Client
) -> None:
    page = says(200, b"<html>maintenance</html>", Content_Type="text/html")
    data = says(200, b"{}", Content_Type="application/geo+json")
    empty = says(200, b"", Content_Type="application/json")
    server.acts = [page, empty, data]
    assert client.get(server.url, kind="json").content == b"{}"
    server.acts = [page]
    with pytest.raises(Unavailable, match="content of type text/html, expected json"):
        client.get(server.url, kind="json")
    server.acts = [empty]
    with pytest.raises(Unavailable, match="an empty answer"):
        client.get(server.url, kind="json")
    assert client.get(server.url).content == b""


def test_the_rate_holds_for_all_threads(server: Server) -> None:
    server.acts = [gives(b"x")]
    with http.Client(per_second=50) as client, ThreadPoolExecutor(5) as pool:
        started = time.monotonic()
        list(pool.map(lambda _: client.get(server.url), range(11)))
    assert max(server.times) - started >= 10 / 50


def test_a_key_goes_to_its_origin_alone_and_is_told_nobody(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    other = Server()
    try:
        server.acts = [says(302, Location=other.url), says(302, Location="/again"), gives()]
        other.acts = [gives()]
        keys = {server.origin: {"X-Api-Key": KEY}}
        with caplog.at_level(logging.DEBUG), http.Client(keys=keys, first_wait=0.001) as client:
            answers = [client.get(server.url), client.get(server.url)]
            server.acts = [says(403)]
            with pytest.raises(InvalidInput) as refused:
                client.get(server.url)
            server.acts = [says(500)]
            with pytest.raises(Unavailable) as gone:
                client.get(server.url)
    finally:
        other.close()
    assert {asked["x-api-key"] for asked in server.asked} == {KEY}
    assert "x-api-key" not in other.asked[0]
    assert answers[0].url == server.url  # what was asked, not where a redirect led
    said = (caplog.text, str(answers), str(refused.value), str(gone.value), repr(client))
    assert "GET" in caplog.text
    assert not any(KEY in text for text in said)


def test_a_password_is_no_part_of_a_url(client: http.Client) -> None:
    with pytest.raises(InvalidInput, match="no part of a URL") as error:
        client.get(f"http://me:{KEY}@127.0.0.1/x")
    assert KEY not in str(error.value)


def test_redirects_have_an_end(server: Server, client: http.Client) -> None:
    server.acts = [says(302, Location="/again")]
    with pytest.raises(Unavailable, match="redirects"):
        client.get(server.url)
