"""What is due, by the record of runs: partitions that none has run, and what follows new data.

The record holds the runs of everybody: of schedules, of a terminal, of a notebook. So what follows
does so whoever brought the data, and a backfill leaves out what a schedule has done.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from thalweg import database
from thalweg.database import RunRow, RunUse
from thalweg.pipelines import history
from thalweg.pipelines.specification import Pipeline
from thalweg.settings import Settings

__all__ = ["Following", "follow", "partitions"]

#: How long after its end a run may come into the record.
LATE = dt.timedelta(minutes=10)


def partitions(pipeline: str, settings: Settings, state: str | None = None) -> set[str]:
    """The partitions of which there are runs, in this state if one is given."""
    query = sa.select(RunRow.partition).filter_by(pipeline=pipeline).distinct()
    query = query.filter_by(state=state) if state else query
    with database.session(settings) as session:
        return {key for key in session.scalars(query) if key is not None}


@dataclass(frozen=True)
class Following:
    """What a pipeline has to run for the data that came until a time: partitions, or None for all.

    With each is the id of the newest run that it follows.
    """

    runs: Mapping[str | None, str]
    until: dt.datetime


class _Ended(NamedTuple):
    id: str
    name: str
    partition: str | None
    ended_at: dt.datetime


def follow(
    pipeline: Pipeline, pipelines: Mapping[str, Pipeline], since: dt.datetime, settings: Settings
) -> Following:
    """What has to run because runs of what the pipeline needs succeeded after `since`.

    A partition follows those upstream that lie in it; without partitions it follows all, once none
    of what it needs is going on. What has run since then needs not run again.
    """
    going_on = {
        run.pipeline for run in history.find(state="running", limit=None, settings=settings)
    }
    news = _news(pipeline, since, settings)
    begun = _begun(pipeline.name, settings)
    runs: dict[str | None, str] = {}
    for run in news:
        for key in _targets(pipeline, pipelines.get(run.name), run.partition):
            if key not in begun or begun[key] < run.ended_at:
                runs[key] = run.id
    if None in runs and going_on & {pipeline.name, *pipeline.needs}:
        del runs[None]
        return Following(runs, since)  # which is asked again
    return Following(runs, max([since, *(run.ended_at for run in news)]))


def _targets(
    pipeline: Pipeline, upstream: Pipeline | None, partition: str | None
) -> Sequence[str | None]:
    """The partitions that follow a run upstream; None stands for a run with the default values."""
    mine, theirs = pipeline.partitions, upstream.partitions if upstream else None
    if mine and theirs and partition in mine.keys:
        return [partition]
    if mine and theirs and partition and "key" not in (mine.by, theirs.by):
        return mine.within(*theirs.window(partition))
    if mine and any(parameter.required for parameter in pipeline.parameters.values()):
        return mine.keys or mine.between()[-1:]
    return [None]


def _news(pipeline: Pipeline, since: dt.datetime, settings: Settings) -> list[_Ended]:
    """Runs that succeeded after `since`, of pipelines that are needed or into needed tables."""
    wrote = sa.select(RunUse.run_id).where(
        RunUse.direction == "wrote", RunUse.kind == "table", RunUse.name.in_(pipeline.needs)
    )
    query = (
        sa.select(RunRow.id, RunRow.pipeline, RunRow.partition, RunRow.ended_at)
        .filter_by(state="succeeded")
        .where(RunRow.ended_at > since - LATE, RunRow.pipeline != pipeline.name)
        .where(RunRow.pipeline.in_(pipeline.needs) | RunRow.id.in_(wrote))
        .where(RunRow.trigger != "rerun")  # which writes nothing
        .order_by(RunRow.ended_at)
    )
    with database.session(settings) as session:
        return [
            _Ended(id, name, key, time) for id, name, key, time in session.execute(query) if time
        ]


def _begun(pipeline: str, settings: Settings) -> dict[str | None, dt.datetime]:
    """When each partition last began to run."""
    query = (
        sa.select(RunRow.partition, sa.func.max(RunRow.started_at))
        .where(RunRow.pipeline == pipeline, RunRow.trigger != "rerun")
        .group_by(RunRow.partition)
    )
    with database.session(settings) as session:
        return dict(session.execute(query).tuples().all())
