"""Answers of the USGS, made up in form, and what is read of them."""

from __future__ import annotations

import json

import pyarrow as pa

from thalweg import raw

RECORDED = "usgs_recorded_responses"


def values(tables: dict[str, pa.Table], *columns: str) -> list[tuple]:
    """These columns of the timeseries, a tuple a row."""
    return [tuple(row[c] for c in columns) for row in tables["primary_timeseries"].to_pylist()]


def landed(content: bytes, dataset: str, extension: str = "json") -> raw.RawFile:
    return raw.land("usgs", dataset, content, extension=extension, url=f"https://usgs/{dataset}")


def page(features: list[dict], next_page: str | None = None) -> bytes:
    """A page of the Water Data API."""
    links = [{"rel": "self", "href": "?"}] + [{"rel": "next", "href": next_page}] * bool(next_page)
    about = {"type": "FeatureCollection", "numberReturned": len(features), "links": links}
    return json.dumps(about | {"features": features}).encode()
