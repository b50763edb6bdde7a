"""The object store, through fsspec: S3 on the laptop and on AWS, any other fsspec URI in a test.

Credentials and the endpoint come from the SDK's default chain (`AWS_*`), never from code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import fsspec
from botocore.exceptions import BotoCoreError

from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings, load

__all__ = ["filesystem", "public_filesystem", "put_new", "read", "translated"]

# S3's answers to a conditional put that another writer has won, or is winning.
EXISTS = {"PreconditionFailed", "ConditionalRequestConflict"}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def filesystem(uri: str) -> Any:
    """The fsspec filesystem that opens `uri`; raises `InvalidInput` where none here does."""
    try:
        return fsspec.core.url_to_fs(uri)[0]
    except (ImportError, ValueError) as error:
        raise InvalidInput(
            f"cannot open {uri}: {error}; known are paths, file://, s3:// and https://"
        ) from None


def public_filesystem(settings: Settings | None = None) -> Any:
    """The S3 filesystem of the public open-data buckets, at `Settings.public_endpoint`.

    Anonymous, as those buckets want it; with the default credentials where the endpoint is a
    store on this machine, which answers nobody without a key.
    """
    endpoint = (settings or load()).public_endpoint
    local = urlsplit(endpoint).hostname in LOOPBACK
    return fsspec.filesystem(
        "s3",
        anon=not local,
        endpoint_url=endpoint,
        use_listings_cache=False,
        config_kwargs={"retries": {"max_attempts": 2}},  # s3fs tries five times over these
    )


def put_new(uri: str, data: bytes) -> None:
    """Write `data` to `uri` if nothing is there yet (S3: a conditional put, If-None-Match: *).

    Raises
    ------
    FileExistsError
        Something is there already; it is left as it is.
    Unavailable
        The store does not answer, or refuses.
    """
    with translated(uri):
        filesystem(uri).pipe_file(uri, data, mode="create")


def read(uri: str) -> bytes:
    """The bytes at `uri`; raises `NotFound`, `Unavailable`, or `InvalidInput` for a folder."""
    with translated(uri):
        content: bytes = filesystem(uri).cat_file(uri)
    return content


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn what a store's client raises about `uri` into one clear line of ours."""
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError:
        raise NotFound(f"nothing is stored at {uri}") from None
    except IsADirectoryError:
        raise InvalidInput(f"{uri} is a folder: name its files, as {uri.rstrip('/')}/*") from None
    except (OSError, BotoCoreError) as error:
        if _code(error) in EXISTS:
            raise FileExistsError(uri) from None
        raise Unavailable(
            f"the object store does not give {uri}: {error}; see `thalweg status`"
        ) from error


def _code(error: Exception) -> str:
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
