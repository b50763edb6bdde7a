"""Run many partitions of a pipeline: those that have not succeeded yet, a few at a time.

>>> from thalweg.pipelines import backfill
>>> backfill.backfill("ingest_usgs", "2024-09-25", "2024-09-28")  # doctest: +SKIP

Whoever stops it loses nothing: the next one goes on where this one was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from thalweg.pipelines import due, history, specification
from thalweg.pipelines import run as runner
from thalweg.pipelines.specification import Pipeline
from thalweg.settings import Settings, load

__all__ = ["Backfilled", "backfill"]

Progress = Callable[[int, int], None]


@dataclass
class Backfilled:
    """What became of each partition; `failed` and `busy` say why, `left` were not begun."""

    pipeline: str
    succeeded: list[str] = field(default_factory=list)
    done_before: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def backfill(
    name: str,
    first: str | None = None,
    last: str | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    again: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Backfilled:
    """Run the partitions from the first to the last, as the pipeline's `backfill` says.

    As many go on at once as its `concurrency` allows. Those that failed are tried again by its
    `retries`, after all others, and end as dead letters.

    Parameters
    ----------
    first, last
        Keys, both included; without one, the first or last that there is.
    parameters
        Values for all of them by name, beside those that the partition gives.
    again
        Run also what has succeeded before.
    progress
        Called with the number of partitions that are done and the number of all.

    Raises
    ------
    NotFound, InvalidInput
        No such pipeline or partition, or parameters without a value; nothing has run.
    """
    settings = settings or load()
    pipeline = specification.get(name, settings)
    keys = pipeline.partition_keys(first, last)
    before = set() if again else due.partitions(name, settings, "succeeded")
    result = Backfilled(name, done_before=[key for key in keys if key in before])
    result.left = [key for key in keys if key not in before]
    policy = pipeline.policy
    if policy.order == "newest_first":
        result.left.reverse()
    at_once = 1 if policy.on_failure == "stop" else pipeline.concurrency
    if result.left:
        pipeline.values(parameters, result.left[0])  # before anything runs

    def tell() -> None:
        if progress:
            progress(len(keys) - len(result.left), len(keys))

    tell()
    with runner.stoppable():
        while result.left:
            batch = result.left[:1] if policy.on_failure == "stop" else list(result.left)
            for attempt in range(1, pipeline.retries.attempts + 2):
                batch = _round(
                    pipeline, batch, parameters, attempt, at_once, result, settings, tell
                )
                if not batch:
                    break
                time.sleep(pipeline.retries.wait(attempt))
            if result.failed and policy.on_failure == "stop":
                break
    return result


def _round(
    pipeline: Pipeline,
    keys: list[str],
    parameters: Mapping[str, Any] | None,
    attempt: int,
    at_once: int,
    result: Backfilled,
    settings: Settings,
    tell: Callable[[], None],
) -> list[str]:
    """Run each of the partitions once; those to try again, which nobody has cancelled."""
    stop, again = threading.Event(), list[str]()

    def work(key: str) -> None:
        try:
            runner.run(
                pipeline.name, parameters, partition=key, trigger="backfill", attempt=attempt,
                settings=settings, stop=stop,
            )  # fmt: skip
        except runner.RunFailed as failed:
            result.failed[key] = str(failed.run.error)
            if failed.run.state == "failed":  # and neither cancelled nor a dead letter
                again.append(key)
        except history.Busy as busy:
            result.busy[key] = str(busy)
        else:
            result.succeeded.append(key)
            result.failed.pop(key, None)
        if key in result.left:
            result.left.remove(key)
        tell()

    if at_once == 1:
        for key in keys:  # in this thread, which hears of Ctrl-C and SIGTERM
            work(key)
        return again
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for future in [pool.submit(work, key) for key in keys]:
                future.result()
        except BaseException:  # begin no more, and stop what is going on
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return again
