"""Requests to Copernicus' Climate and Atmosphere Data Stores, through their own client."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from thalweg import raw
from thalweg.errors import Unavailable
from thalweg.raw import RawFile
from thalweg.settings import Settings

__all__ = ["area_of", "retrieve"]


def retrieve(
    source: str,
    dataset: str,
    collection: str,
    request: Mapping[str, Any],
    url: str,
    valid: tuple[dt.datetime, dt.datetime],
    settings: Settings,
) -> RawFile:
    """Land the GRIB that a request gives; what was asked for is in the header `request`.

    The client takes the key from the environment (`CDSAPI_KEY`) or from ~/.cdsapirc.

    Raises
    ------
    Unavailable
        The client is not installed, has no key, or the store refuses.
    """
    try:
        client = import_module("cdsapi")
    except ModuleNotFoundError:
        raise Unavailable(
            f"{source} comes through the package cdsapi, which is not installed: "
            f"`pip install cdsapi`, and set CDSAPI_KEY to the key of your profile at {url}"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "answer.grib"
        try:
            client.Client(url=url, quiet=True).retrieve(collection, dict(request), str(target))
            content = target.read_bytes()
        except Exception as error:  # the client raises Exception itself where there is no key
            said = " ".join(str(error).split()) or type(error).__name__
            if "configuration file" in said:
                said += f"; set CDSAPI_KEY to the key of your profile at {url}"
            raise Unavailable(f"{url} does not give {collection}: {said}") from error
    return raw.land(
        source, dataset, content, extension="grib", url=f"{url}#{collection}",
        headers={"request": json.dumps(request, sort_keys=True)},
        valid_from=valid[0], valid_to=valid[1], settings=settings,
    )  # fmt: skip


def area_of(area: tuple[float, float, float, float] | None) -> dict[str, list[float]]:
    """The stores' `area`: north, west, south, east."""
    if area is None:
        return {}
    west, south, east, north = area
    return {"area": [north, west, south, east]}
