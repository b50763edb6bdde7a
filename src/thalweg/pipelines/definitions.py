"""Every pipeline.yaml as Dagster sees it: an asset, a job, a schedule; loaded with `-m`.

A thin factory and nothing more: Dagster decides when, `thalweg.pipelines.run` does the work. The
asset named like the pipeline depends on the assets that it needs, pipelines and tables. Without a
schedule it follows them: when one of them has new data by the record of runs, whoever brought it,
it runs. `first_light` loads the embedded sample and evaluates it, once. Notebooks that people have
scheduled come and go while this is loaded: one sensor asks the record which are due, one job runs
any of them.
"""

import datetime as dt
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import dagster as dg

from thalweg import settings as settings_module
from thalweg.errors import InvalidInput, NotFound
from thalweg.pipelines import due, history, notify, personal, specification
from thalweg.pipelines import run as runner
from thalweg.pipelines.history import Run
from thalweg.pipelines.partitions import FORMATS, Partitions
from thalweg.pipelines.parts import Parameter, Resources, Retries, Schedule
from thalweg.pipelines.personal import POOL
from thalweg.pipelines.specification import Pipeline
from thalweg.settings import Settings

__all__ = ["definitions", "defs"]

TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "date": str,
    "list": [str],
}
BACKOFF = {
    "constant": None,
    "linear": dg.Backoff.LINEAR,
    "exponential": dg.Backoff.EXPONENTIAL,
}
CRON = {"hourly": "0 * * * *", "daily": "0 0 * * *", "monthly": "0 0 1 * *"}
FIRST_LIGHT = ("load_sample", "evaluate")
SCHEDULE = "thalweg/schedule"  # tag of a run
log = logging.getLogger(__name__)


def definitions(settings: Settings) -> dg.Definitions:
    """Assets, jobs, schedules and sensors of all pipelines of the home folder.

    One that is broken is an asset that nothing makes, and says what is wrong with it.
    """
    pipelines, broken = specification.all(settings), specification.broken(settings)
    for why in broken.values():
        log.error("%s", why)
    named = {need for each in pipelines.values() for need in each.needs}
    tables = named - set(pipelines) - set(broken)
    jobs = {name: _job(name, [name], pipelines) for name in pipelines}
    sensors = [
        _following(each, pipelines, jobs[name], settings)
        for name, each in pipelines.items()
        if _follows(each)
    ]
    if set(FIRST_LIGHT) <= set(pipelines):
        jobs["first_light"] = _job("first_light", FIRST_LIGHT, pipelines)
        sensors.append(_first_light_sensor(jobs["first_light"], settings))
    jobs[POOL] = _personal(settings)
    sensors += [_telling_sensor(settings), _personal_sensor(jobs[POOL], settings)]
    return dg.Definitions(
        assets=[
            *(_asset(pipeline, pipelines, tables, settings) for pipeline in pipelines.values()),
            *(dg.AssetSpec(_key(name, tables), kinds={"iceberg"}) for name in sorted(tables)),
            *(dg.AssetSpec(n, description=why, kinds={"broken"}) for n, why in broken.items()),
        ],
        jobs=list(jobs.values()),
        schedules=[
            _schedule(pipeline, pipeline.schedule, jobs[name], settings)
            for name, pipeline in pipelines.items()
            if pipeline.schedule
        ],
        sensors=sensors,
        executor=dg.in_process_executor,  # each run has one process of its own already
    )


def _asset(
    pipeline: Pipeline, pipelines: dict[str, Pipeline], tables: set[str], settings: Settings
) -> dg.AssetsDefinition:
    partitions = pipeline.partitions
    filled = partitions.parameters if partitions else {}

    @dg.asset(
        name=pipeline.name,
        deps=[_dependency(pipeline, need, pipelines, tables) for need in pipeline.needs],
        description=f"{pipeline.title}. {pipeline.description}",
        kinds={"jupyter"},
        metadata={"owner": pipeline.owner, "timeout_s": pipeline.timeout},
        config_schema={
            name: _field(parameter, name in filled)
            for name, parameter in pipeline.parameters.items()
        },
        partitions_def=_partitions(partitions) if partitions else None,
        pool=pipeline.name,
        output_required=False,
        retry_policy=dg.RetryPolicy(
            max_retries=pipeline.retries.attempts,
            delay=pipeline.retries.delay,
            backoff=BACKOFF[pipeline.retries.backoff],
        ),
    )
    def execute(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        key = context.partition_key if context.has_partition_key else None
        given = context.op_execution_context.op_config
        done = _run(context, pipeline.name, given, key, "dagster", settings)
        if done:
            yield dg.MaterializeResult(metadata=_metadata(done))

    return execute


def _run(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    name: str,
    given: Any,
    partition: str | None,
    trigger: str,
    settings: Settings,
) -> Run | None:
    """Run a pipeline as Dagster wants it; None where the run was left out."""
    _end_with_the_code_server()
    try:
        return runner.run(
            name,
            given,
            partition=partition,
            attempt=context.retry_number + 1,
            trigger=trigger,
            settings=settings,
            progress=lambda cell, total: context.log.info(f"cell {cell} of {total}"),
        )
    except history.Busy as busy:
        context.log.info(f"left out: {busy}")
        return None
    except (InvalidInput, NotFound) as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except runner.RunFailed as failed:
        again = failed.run.state == "failed"  # and neither cancelled nor a dead letter
        about = _metadata(failed.run)
        raise dg.Failure(str(failed), metadata=about, allow_retries=again) from None
    except dg.DagsterExecutionInterruptedError:
        _leave(context)


def _personal(settings: Settings) -> dg.JobDefinition:
    """The job that runs a notebook that a person has scheduled."""
    retries = Retries()  # which these have all

    @dg.op(
        name=POOL,
        config_schema={"name": str, "trigger": dg.Field(str, default_value="command")},
        pool=POOL,
        description="Runs a notebook that a person has scheduled, in their name.",
        retry_policy=dg.RetryPolicy(
            max_retries=retries.attempts, delay=retries.delay, backoff=BACKOFF[retries.backoff]
        ),
    )
    def execute(context: dg.OpExecutionContext) -> None:
        config = context.op_config
        if config["trigger"] == "schedule" and personal.is_paused(config["name"], settings):
            return context.log.info("left out: it was paused while it waited")
        if done := _run(context, config["name"], None, None, config["trigger"], settings):
            context.log.info(f"run {done.id}: {done.notebook_uri or 'its notebook was not saved'}")

    @dg.job(name=f"{POOL}_schedules", executor_def=dg.in_process_executor)
    def run_personal() -> None:
        execute()

    return run_personal


def _personal_sensor(job: dg.JobDefinition, settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{POOL}_schedules_sensor",
        job=job,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=15,
        description="Runs notebooks that people have scheduled, when they are due.",
    )
    def ask(context: dg.SensorEvaluationContext) -> list[dg.RunRequest]:
        until = dt.datetime.now(dt.UTC)
        since = dt.datetime.fromisoformat(context.cursor) if context.cursor else until
        context.update_cursor(until.isoformat())
        status = dg.DagsterRunStatus
        queued = dg.RunsFilter(job_name=job.name, statuses=[status.NOT_STARTED, status.QUEUED])
        waiting = {run.tags.get(SCHEDULE) for run in context.instance.get_runs(queued)}
        # What was saved while the last tick was looking is looked at again: Dagster launches a run
        # key only one time. One that waits in the queue already stands for those after it.
        return [
            dg.RunRequest(
                each.key,
                {"ops": {POOL: {"config": _config(each)}}},
                tags=_text(_tags(each.pipeline)) | {SCHEDULE: each.pipeline.name},
            )
            for each in personal.due(since - due.LATE, until, settings)
            if each.pipeline.name not in waiting
        ]

    return ask


def _config(asked: personal.Due) -> dict[str, str]:
    return {"name": asked.pipeline.name, "trigger": asked.trigger}


def _text(tags: dict[str, Any]) -> dict[str, str]:
    """Tags of a run request, which Dagster wants as text."""
    return {key: each if isinstance(each, str) else json.dumps(each) for key, each in tags.items()}


def _follows(pipeline: Pipeline) -> bool:
    return bool(pipeline.needs) and not pipeline.schedule


def _key(need: str, tables: set[str]) -> dg.AssetKey:
    """The asset of a table, or of a pipeline."""
    return dg.AssetKey(["warehouse", need] if need in tables else [need])


def _dependency(
    pipeline: Pipeline, need: str, pipelines: dict[str, Pipeline], tables: set[str]
) -> dg.AssetDep:
    """What is needed: of a day its hours; where partitions have nothing in common, all of them."""
    mine = pipeline.partitions
    theirs = pipelines[need].partitions if need in pipelines else None
    alike = not mine or not theirs or mine.keys == theirs.keys  # which times have not
    mapping = None if alike else dg.AllPartitionMapping()
    return dg.AssetDep(_key(need, tables), partition_mapping=mapping)


def _partitions(partitions: Partitions) -> dg.PartitionsDefinition[str]:
    if partitions.by == "key":
        return dg.StaticPartitionsDefinition(partitions.keys)
    zone = ZoneInfo(partitions.timezone)
    return dg.TimeWindowPartitionsDefinition(
        start=str(partitions.start),
        end=partitions.window(partitions.end)[1].astimezone(zone) if partitions.end else None,
        fmt=FORMATS[partitions.by],
        timezone=partitions.timezone,
        cron_schedule=CRON[partitions.by],
    )


def _metadata(run: Run) -> dict[str, Any]:
    """What Dagster shows beside a run: our record's id, the notebook, what was written."""
    written = {
        f"wrote {use.name}": f"{use.rows} rows, version {use.version}"
        for use in run.uses
        if use.direction == "wrote" and use.kind == "table"
    }
    return {"run_id": run.id, "notebook": run.notebook_uri or "not saved"} | written


def _field(parameter: Parameter, is_filled: bool) -> dg.Field:
    """A parameter as a field of Dagster's launchpad, where its value is checked as well.

    One that partitions fill has no default here: what is given beside a partition is refused.
    """
    kind = TYPES[parameter.type]
    optional = not parameter.required and parameter.default is None
    default = {} if parameter.required or is_filled else {"default_value": parameter.default}
    return dg.Field(
        dg.Noneable(kind) if optional else kind,
        is_required=parameter.required and not is_filled,
        description=parameter.description,
        **default,
    )


def _job(name: str, assets: Any, pipelines: dict[str, Pipeline]) -> Any:
    """A job that can be launched by hand; its pod is as large as its largest pipeline needs."""
    return dg.define_asset_job(
        f"run_{name}" if name in pipelines else name,
        selection=dg.AssetSelection.assets(*assets),
        tags=_tags(*(pipelines[asset] for asset in assets)),
    )


def _tags(*pipelines: Pipeline) -> dict[str, Any]:
    """What the run launcher has to know of a run: how long it may take, how large its pod is."""
    limit = 0
    for each in pipelines:
        limit += 2 * (each.timeout + 60)  # it may have waited for another as long
        for retry in range(1, each.retries.attempts + 1):
            limit += 2 * (each.timeout + 60) + each.retries.wait(retry)
    return {
        "dagster/max_runtime": str(limit),
        "dagster-k8s/config": _pod(*(p.resources for p in pipelines)),
    }


def _pod(*resources: Resources) -> dict[str, Any]:
    cpu, memory = max(r.cpu for r in resources), max(r.memory for r in resources)
    size = {"cpu": f"{cpu * 1000:.0f}m", "memory": f"{memory * 1000:.0f}M"}
    limits = {"memory": size["memory"]}
    return {"container_config": {"resources": {"requests": size, "limits": limits}}}


def _following(
    pipeline: Pipeline, pipelines: dict[str, Pipeline], job: Any, settings: Settings
) -> dg.SensorDefinition:
    """Runs a pipeline after what it needs. Dagster's own conditions know of Dagster's runs only."""

    @dg.sensor(
        name=f"follow_{pipeline.name}",
        job=job,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description=f"Runs it when there is something new of {', '.join(pipeline.needs)}.",
    )
    def follow(context: dg.SensorEvaluationContext) -> list[dg.RunRequest]:
        since = (
            dt.datetime.fromisoformat(context.cursor) if context.cursor else dt.datetime.now(dt.UTC)
        )
        following = due.follow(pipeline, pipelines, since, settings)
        context.update_cursor(following.until.isoformat())
        return [
            dg.RunRequest(f"{run} {key}", partition_key=key) for key, run in following.runs.items()
        ]

    return follow


def _schedule(
    pipeline: Pipeline, schedule: Schedule, job: Any, settings: Settings
) -> dg.ScheduleDefinition:
    status = dg.DefaultScheduleStatus

    @dg.schedule(
        name=f"run_{pipeline.name}_schedule",
        job=job,
        cron_schedule=schedule.cron,
        execution_timezone=schedule.timezone,
        default_status=status.RUNNING if settings.schedules else status.STOPPED,
    )
    def ask(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        time, partitions = context.scheduled_execution_time, pipeline.partitions
        if not partitions or schedule.runs == "defaults":
            return [dg.RunRequest()]
        if partitions.by == "key":
            return [dg.RunRequest(f"{time} {key}", partition_key=key) for key in partitions.keys]
        # All that ended since the newest that was ever run, so that an outage leaves no gap; each
        # is asked for once, as Dagster launches a run key only one time.
        newest = max(due.partitions(pipeline.name, settings), default=None)
        return [dg.RunRequest(key, partition_key=key) for key in partitions.due(newest, time)]

    return ask


def _first_light_sensor(job: Any, settings: Settings) -> dg.SensorDefinition:
    status = dg.DefaultSensorStatus

    @dg.sensor(
        name="first_light_sensor",
        job=job,
        default_status=status.RUNNING if settings.sample else status.STOPPED,
        minimum_interval_seconds=24 * 3600,
        description="Asks for the first run, once: Dagster launches a run key only one time.",
    )
    def ask() -> dg.RunRequest:
        return dg.RunRequest(run_key="first light")

    return ask


def _telling_sensor(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="tell_people",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
        description="Tells, once each time, of pipelines that are late against their promise, and "
        "sends the notices that others could not send.",
    )
    def tell(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        late = notify.tell_late((context.cursor or "").split(), settings)
        context.update_cursor(" ".join(late))
        missing = ", ".join(sorted(notify.deliver(settings)))
        said = f"late: {', '.join(late)}" if late else "nothing is late"
        return dg.SkipReason(said + (f"; notices wait: set {missing}" if missing else ""))

    return tell


def _leave(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> NoReturn:
    """End an interrupted run; Dagster alone would try again at once, whoever interrupted it."""
    run = context.instance.get_run_by_id(context.run_id)
    if run and run.status == dg.DagsterRunStatus.CANCELING:
        raise dg.Failure("stopped by a person", allow_retries=False)
    # The scheduler is going. To it, this is a run that was lost: its next start repeats it.
    os._exit(1)


def _end_with_the_code_server() -> None:
    """Stop this run when the process that started it is gone: nobody could see or end it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster finds here; a function, so that importing this module reads nothing."""
    return definitions(settings_module.load())
