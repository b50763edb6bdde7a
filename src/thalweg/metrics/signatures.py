"""Metrics of the shape of a hydrograph, of the observed and of the forecast one."""

from __future__ import annotations

from thalweg.metrics.entry import Metric, Statistic

__all__ = ["METRICS", "RELATIONS", "STATISTICS"]

RELATIONS: dict[str, str] = {}
STATISTICS: dict[str, Statistic] = {}
METRICS: tuple[Metric, ...] = ()
