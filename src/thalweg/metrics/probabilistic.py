"""Metrics of ensembles: a forecast of several members beside the observed value."""

from __future__ import annotations

from thalweg.metrics.entry import Metric, Statistic

__all__ = ["METRICS", "RELATIONS", "STATISTICS"]

RELATIONS: dict[str, str] = {}
STATISTICS: dict[str, Statistic] = {}
METRICS: tuple[Metric, ...] = ()
