"""Files over HTTP from providers that are busy, slow or hang up: patiently, and exactly.

>>> from thalweg import http
>>> with http.Client(per_second=5) as client:
...     client.get("ftp://example.org/levels.json")
Traceback (most recent call last):
thalweg.errors.InvalidInput: cannot ask for ftp://example.org/levels.json: Request URL has an
unsupported protocol 'ftp://'.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.metadata import version

import httpx
import tenacity

from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.private import without_secrets

__all__ = ["Answer", "Client", "Progress"]

#: Called with the bytes that have come, and with how many there will be if the server says so.
Progress = Callable[[int, int | None], None]
#: Statuses of a server that may say something else later, besides all from 500 on.
BUSY = {408, 425, 429}
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class Answer:
    """What a server gave: the bytes, and what it said about them."""

    url: str  # what was asked for, with its query
    headers: Mapping[str, str]  # names in lower case; of a resumed download, those of its beginning
    content: bytes  # the resource itself, without the compression of its transport


class Client:
    """Gets files from servers, again where that can help. Threads may share one.

    Parameters
    ----------
    attempts
        How often to ask in vain. A download that has come further than before is not in vain.
    first_wait, longest_wait
        Seconds between attempts: doubled each time, with jitter, from the first to the longest. A
        server's `Retry-After` counts instead; if it is longer than the longest, we give up at once.
    per_second
        At most so many requests a second, of all threads together.
    timeout
        Seconds of silence after which an attempt is over.
    keys
        Secret headers by origin: `{"https://api.example.org": {"X-Api-Key": …}}`. They are sent
        there and nowhere else, also after a redirect, and stand in no answer, error or log.
    """

    def __init__(
        self,
        *,
        attempts: int = 5,
        first_wait: float = 1.0,
        longest_wait: float = 60.0,
        per_second: float | None = None,
        timeout: float = 60.0,
        keys: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._longest_wait = longest_wait
        self._jitter = tenacity.wait_exponential_jitter(first_wait, longest_wait, jitter=first_wait)
        self._attempts = attempts
        self._interval = 1 / per_second if per_second else 0.0
        self._next_turn = 0.0
        self._lock = threading.Lock()
        self._keys = {_origin(httpx.URL(at)): headers for at, headers in (keys or {}).items()}
        self._http = httpx.Client(
            timeout=timeout,
            follow_redirects=True,
            headers={"User-Agent": f"thalweg/{version('thalweg')}"},
            event_hooks={"request": [self._sign, self._take_turn]},
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(
        self,
        url: str,
        params: Mapping[str, str] | None = None,
        *,
        part: tuple[int, int | None] | None = None,
        kind: str | None = None,
        progress: Progress | None = None,
    ) -> Answer:
        """All the bytes at `url`, as the server has them.

        A cut download goes on where it was cut if the server tells, by an ETag or a date, that the
        file is the same; else it begins anew.

        Parameters
        ----------
        params
            The query. No secrets: it is part of the URL that is kept.
        part
            Only the bytes from `start` on and before `stop` (None: to the end), counted from 0.
        kind
            What the content type has to contain, such as `"json"`. Another type (a page that tells
            of maintenance) or an empty answer is taken for a failure that will pass.

        Raises
        ------
        NotFound
            Nothing is there (404, 410).
        InvalidInput
            The server refuses the request (other 4xx), or the URL or part is none.
        Unavailable
            The server does not answer, or is still busy after all attempts.
        """
        try:
            request = self._http.build_request("GET", url, params=params)
        except httpx.InvalidURL as error:
            raise InvalidInput(f"cannot ask for {without_secrets(url)}: {error}") from None
        if request.url.userinfo:
            raise InvalidInput(f"a password is no part of a URL ({request.url.host}): use `keys`")
        if part and not (part[0] >= 0 and (part[1] is None or part[0] < part[1])):
            raise InvalidInput(
                f"{without_secrets(url)}: bytes {part[0]} to {part[1]} are no part of a file"
            )
        return self._patiently(_Download(request, part, kind, progress))

    def post(self, url: str, content: Mapping[str, object]) -> None:
        """Send JSON to `url`, again where that can help, so that it may arrive more than once.

        Raises `InvalidInput`, `NotFound` and `Unavailable` as `get` does.
        """
        try:
            request = self._http.build_request("POST", url, json=content)
        except httpx.InvalidURL as error:
            raise InvalidInput(f"cannot send to {without_secrets(url)}: {error}") from None
        self._patiently(_Message(request))

    def _patiently(self, task: _Download | _Message) -> Answer:
        """Attempt it until it is done, or there is no hope."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_pass),
            stop=lambda state: state.attempt_number - task.steps >= self._attempts,
            wait=self._wait,
            reraise=True,
        )
        try:
            return retrying(task.attempt, self._http)
        except httpx.UnsupportedProtocol as error:
            raise InvalidInput(f"cannot ask for {without_secrets(task.url)}: {error}") from None
        except (_Busy, httpx.RequestError) as error:
            why = f"{str(error) or type(error).__name__} after {task.attempts} attempts"
            raise Unavailable(
                f"{without_secrets(task.url)} is not to be had ({why}); try later"
            ) from error

    def _sign(self, request: httpx.Request) -> None:
        """Give a request the key of its origin; a redirect may have brought that of another."""
        for name in {name for headers in self._keys.values() for name in headers}:
            request.headers.pop(name, None)
        request.headers.update(self._keys.get(_origin(request.url), {}))

    def _take_turn(self, _: httpx.Request) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next_turn)
            self._next_turn = turn + self._interval
        time.sleep(turn - now)

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, _Busy):
            return error.retry_after is None or error.retry_after <= self._longest_wait
        transport = isinstance(error, httpx.TransportError)
        return transport and not isinstance(error, httpx.UnsupportedProtocol)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, _Busy) else None
        return self._jitter(state) if asked is None else asked


class _Busy(Exception):
    """The server answers, but not with what was asked for; it may later."""

    def __init__(self, said: str, retry_after: float | None = None) -> None:
        super().__init__(said)
        self.retry_after = retry_after


@dataclass
class _Message:
    """What is sent, over as many attempts as it takes."""

    request: httpx.Request
    attempts: int = 0
    steps: int = 0

    @property
    def url(self) -> str:
        return str(self.request.url)

    def attempt(self, client: httpx.Client) -> Answer:
        self.attempts += 1
        response = client.send(self.request)
        _check_status(without_secrets(self.url), response)
        return Answer(self.url, dict(response.headers), response.content)


@dataclass
class _Download:
    """A file on its way, over as many attempts as it takes."""

    request: httpx.Request
    part: tuple[int, int | None] | None
    kind: str | None
    progress: Progress | None
    first: httpx.Headers = field(default_factory=httpx.Headers)
    came: bytearray = field(default_factory=bytearray)  # as they travelled, maybe compressed
    start: int = 0  # of `came` in the file
    expected: int | None = None  # length of `came` when all is there
    attempts: int = 0
    furthest: int = 0
    steps: int = 0  # attempts that brought it further than any before

    @property
    def url(self) -> str:
        return str(self.request.url)

    def attempt(self, client: httpx.Client) -> Answer:
        self.attempts += 1
        if not self._mark():
            self._forget()
        response = client.send(self._ask(client), stream=True)
        try:
            self._check(response)
            self._begin(response)
            for chunk in response.iter_raw():
                self.came += chunk
                if self.progress:
                    self.progress(len(self.came), self.expected)
        finally:
            response.close()
            if self._mark() and len(self.came) > self.furthest:
                self.furthest = len(self.came)
                self.steps += 1
        return self._answer()

    def _next(self) -> int:
        """The first byte that is still wanted."""
        return self.start + len(self.came) if self.came else (self.part or (0,))[0]

    def _ask(self, client: httpx.Client) -> httpx.Request:
        headers = {}
        if self.part or self.came:
            stop = (self.part or (0, None))[1]
            headers["Range"] = f"bytes={self._next()}-{'' if stop is None else stop - 1}"
        if self.part:  # counted in bytes of the file, not of a compressed one
            headers["Accept-Encoding"] = "identity"
        if self.came:
            headers["If-Range"] = self._mark() or ""
        return client.build_request("GET", self.request.url, headers=headers)

    def _check(self, response: httpx.Response) -> None:
        if response.status_code == 416 and self.came:
            self._forget()
            raise _Busy("the file has changed on its way")
        said = _check_status(without_secrets(self.url), response)
        type = response.headers.get("content-type", "none")
        if self.kind and self.kind not in type:
            raise _Busy(f"{said} with content of type {type}, expected {self.kind}")

    def _begin(self, response: httpx.Response) -> None:
        """Go on with what came before if the server does so, else begin anew."""
        if response.status_code != 206:
            self._forget()
            self.first = response.headers
            length = response.headers.get("content-length")
            self.expected = int(length) if length else None
            return
        given = CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        changed = response.headers.get("etag", self.first.get("etag")) != self.first.get("etag")
        if not given or int(given[1]) != self._next() or (self.came and changed):
            self._forget()
            raise _Busy("other bytes than were asked for")
        if not self.came:
            self.first, self.start = response.headers, int(given[1])
        stop = (self.part or (0, None))[1]
        ends = ([] if given[2] == "*" else [int(given[2])]) + ([] if stop is None else [stop])
        self.expected = min(ends) - self.start if ends else None

    def _answer(self) -> Answer:
        if self.expected is not None and len(self.came) < self.expected:
            raise _Busy(f"{len(self.came)} of {self.expected} bytes")
        # httpx decodes what it is given with these headers; of the cookies nothing is kept.
        coding = {k: v for k, v in self.first.items() if k == "content-encoding"}
        try:
            content = httpx.Response(200, headers=coding, content=bytes(self.came)).content
        except httpx.DecodingError as error:
            self._forget()
            raise _Busy(str(error)) from None
        if self.part:
            first, last = self.part
            content = content[first - self.start : None if last is None else last - self.start]
        if self.kind and not content:
            raise _Busy("an empty answer")
        headers = {k: v for k, v in self.first.items() if k != "set-cookie"}
        return Answer(self.url, headers, content)

    def _mark(self) -> str | None:
        """What tells that the file is still the same: a strong ETag, or the date of its change."""
        if self.first.get("accept-ranges") == "none":
            return None
        mark = self.first.get("etag") or self.first.get("last-modified")
        return None if mark is None or mark.startswith("W/") else mark

    def _forget(self) -> None:
        self.came.clear()
        self.start, self.expected = 0, None


def _check_status(url: str, response: httpx.Response) -> str:
    """What the server said in words, if that is good; else raises what `get` says, or `_Busy`."""
    status, said = response.status_code, f"{response.status_code} {response.reason_phrase}"
    if status in (404, 410):
        raise NotFound(f"{url}: nothing is there ({said})")
    if status in BUSY or status >= 500:
        after = _retry_after(response)
        raise _Busy(said if after is None else f"{said}, come back in {after:.0f} s", after)
    if not response.is_success:
        raise InvalidInput(f"{url} is refused: {said}")
    return said


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, given as such or as a date."""
    given = response.headers.get("retry-after", "")
    if given.isdigit():
        return float(given)
    try:
        return max(0.0, (parsedate_to_datetime(given) - dt.datetime.now(dt.UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
