"""Metrics of events: whether a threshold was reached, observed and forecast."""

from __future__ import annotations

from thalweg.metrics.entry import Metric, Statistic

__all__ = ["METRICS", "RELATIONS", "STATISTICS"]

RELATIONS: dict[str, str] = {}
STATISTICS: dict[str, Statistic] = {}
METRICS: tuple[Metric, ...] = ()
