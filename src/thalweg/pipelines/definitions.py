"""Every pipeline.yaml as Dagster sees it: an asset, a job, a schedule; loaded with `-m`.

A thin factory and nothing more: Dagster decides when, `thalweg.pipelines.run` does the work. The
asset named like the pipeline depends on the assets it needs and follows them by itself: when one
of them has new data, it runs. `first_light` loads the embedded sample and evaluates it, once.
"""

import multiprocessing
import os
import signal
import threading
from typing import Any, NoReturn

import dagster as dg

from thalweg import settings as settings_module
from thalweg.errors import InvalidInput, NotFound
from thalweg.pipelines import run as runner
from thalweg.pipelines import specification
from thalweg.pipelines.history import Run
from thalweg.pipelines.specification import Parameter, Pipeline, Schedule
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
FIRST_LIGHT = ("load_sample", "evaluate")

# When anything that is needed has new data, unless it or this asset is being made just now. Not
# Dagster's `eager`, which waits until every needed asset has been made once.
FOLLOWS = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)


def definitions(settings: Settings) -> dg.Definitions:
    """Assets, jobs, schedules and sensors of all pipelines of the home folder."""
    pipelines = specification.all(settings)
    jobs = {name: _job(name, [name], pipelines) for name in pipelines}
    following = dg.AutomationConditionSensorDefinition(
        "follow_new_data",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
    )
    sensors: list[dg.SensorDefinition] = [following]
    if set(FIRST_LIGHT) <= set(pipelines):
        jobs["first_light"] = _job("first_light", FIRST_LIGHT, pipelines)
        sensors.append(_first_light_sensor(jobs["first_light"], settings))
    return dg.Definitions(
        assets=[_asset(pipeline, settings) for pipeline in pipelines.values()],
        jobs=list(jobs.values()),
        schedules=[
            _schedule(pipeline.schedule, jobs[name], settings)
            for name, pipeline in pipelines.items()
            if pipeline.schedule
        ],
        sensors=sensors,
        executor=dg.in_process_executor,  # each run has one process of its own already
    )


def _asset(pipeline: Pipeline, settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        name=pipeline.name,
        deps=pipeline.needs,
        description=f"{pipeline.title}. {pipeline.description}",
        kinds={"jupyter"},
        metadata={"owner": pipeline.owner, "timeout_s": pipeline.timeout},
        config_schema={name: _field(p) for name, p in pipeline.parameters.items()},
        retry_policy=dg.RetryPolicy(
            max_retries=pipeline.retries.attempts,
            delay=pipeline.retries.delay,
            backoff=BACKOFF[pipeline.retries.backoff],
        ),
        automation_condition=FOLLOWS if pipeline.needs else None,
    )
    def execute(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        _end_with_the_code_server()
        try:
            done = runner.run(
                pipeline.name,
                context.op_execution_context.op_config,
                trigger="dagster",
                settings=settings,
                progress=lambda cell, total: context.log.info(f"cell {cell} of {total}"),
            )
        except (InvalidInput, NotFound) as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        except runner.RunFailed as failed:
            raise dg.Failure(str(failed), metadata=_metadata(failed.run)) from None
        except dg.DagsterExecutionInterruptedError:
            _leave(context)
        return dg.MaterializeResult(metadata=_metadata(done))

    return execute


def _metadata(run: Run) -> dict[str, Any]:
    """What Dagster shows beside a run: our record's id, the notebook, what was written."""
    written = {
        f"wrote {use.name}": f"{use.rows} rows, version {use.version}"
        for use in run.uses
        if use.direction == "wrote" and use.kind == "table"
    }
    return {"run_id": run.id, "notebook": run.notebook_uri or "not saved"} | written


def _field(parameter: Parameter) -> dg.Field:
    """A parameter as a field of Dagster's launchpad, where its value is checked as well."""
    kind = TYPES[parameter.type]
    optional = not parameter.required and parameter.default is None
    default = {} if parameter.required else {"default_value": parameter.default}
    return dg.Field(
        dg.Noneable(kind) if optional else kind,
        is_required=parameter.required,
        description=parameter.description,
        **default,
    )


def _job(name: str, assets: Any, pipelines: dict[str, Pipeline]) -> Any:
    limit = sum(pipelines[asset].timeout for asset in assets) + 60
    return dg.define_asset_job(
        f"run_{name}" if name in pipelines else name,
        selection=dg.AssetSelection.assets(*assets),
        tags={"dagster/max_runtime": str(limit * 4)},
    )


def _schedule(schedule: Schedule, job: Any, settings: Settings) -> dg.ScheduleDefinition:
    status = dg.DefaultScheduleStatus
    return dg.ScheduleDefinition(
        job=job,
        cron_schedule=schedule.cron,
        execution_timezone=schedule.timezone,
        default_status=status.RUNNING if settings.schedules else status.STOPPED,
    )


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


def _leave(context: dg.AssetExecutionContext) -> NoReturn:
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
