"""A model that is trained here as a Dagster asset: partitions, the check before it goes to work."""

# Dagster evaluates the annotations of an asset's function, so they are no strings here.
import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from overnight.errors import OvernightError
from overnight.fingerprint import digest, source_of
from overnight.orchestration.asset import RETRIES, RETRY_WAIT_S, check_results
from overnight.orchestration.dependencies import lookback_deps
from overnight.orchestration.schedule import job_of, waiting_schedule
from overnight.registry import Registry
from overnight.training import NOT_WORSE, TrainedModel, TrainingReport, train_model


def trained_model_asset(
    model: TrainedModel,
    *,
    partitions: dg.TimeWindowPartitionsDefinition,
    group: str,
    description: str,
    hour: int | None = None,
    depends_on: Sequence[str | dg.AssetDep] = (),
    owners: Sequence[str] = (),
    pool: str | None = None,
) -> dg.Definitions:
    """The asset of a trained model, its job and its schedule.

    A partition is trained with what had landed by its last day. A model that fails the check
    `not_worse` is kept in the store, and the one in service stays.

    Args:
        model: what to train, and how it is judged; needs the resource `store`.
        partitions: one partition a week, say, in a named time zone.
        group: the asset group in the UI.
        description: what the model is for.
        hour: of the day after a partition at which it is trained if the data of its last day
            has landed, or else of a later day; None for no schedule.
        depends_on: assets beyond the landed sources.
        owners: who answers for the model, `team:name` or an e-mail address.
        pool: Dagster's concurrency pool.
    """

    @dg.asset(
        name=model.name,
        partitions_def=partitions,
        group_name=group,
        description=description,
        deps=[*lookback_deps(model.inputs, partitions), *depends_on],
        metadata={"decided_by": model.metric, "margin": model.margin},
        kinds={"model"},
        owners=list(owners),
        code_version=digest([source_of(model.train), source_of(model.judge)]),
        check_specs=[
            dg.AssetCheckSpec(
                NOT_WORSE,
                asset=model.name,
                description=f"On held-out data its {model.metric} is at most {model.margin} below "
                "that of the version in service. If it fails, that one stays in service: look at "
                "the data of the days it was trained on.",
                blocking=True,
            )
        ],
        retry_policy=dg.RetryPolicy(
            max_retries=RETRIES, delay=RETRY_WAIT_S, backoff=dg.Backoff.EXPONENTIAL
        ),
        required_resource_keys={"store"},
        pool=pool,
    )
    def asset(context: dg.AssetExecutionContext) -> Iterator[Any]:
        store = context.resources.store
        try:
            report = train_model(
                model,
                _last_day(context.partition_time_window),
                store=store.config,
                registry=Registry(store.config, store.scratch / "models"),
                scratch=store.scratch,
            )
        except OvernightError as error:
            if error.retryable:
                raise
            raise dg.Failure(str(error), allow_retries=False) from error
        checks = list(check_results([report.check]))
        if not report.check.passed:
            yield from checks
            raise dg.Failure(report.check.message, metadata=_told(report), allow_retries=False)
        yield dg.MaterializeResult(
            metadata=_told(report),
            data_version=dg.DataVersion(report.version.digest),
            check_results=checks,
        )

    schedules = (
        []
        if hour is None
        else [
            waiting_schedule(
                model.name,
                model.inputs,
                partitions=partitions,
                hour=hour,
                last_day=lambda partition: _last_day(
                    partitions.time_window_for_partition_key(partition)
                ),
                catch_up=1,
                again=False,
            )
        ]
    )
    return dg.Definitions(assets=[asset], jobs=[job_of(model.name)], schedules=schedules)


def _last_day(window: dg.TimeWindow) -> str:
    return (window.end.date() - dt.timedelta(days=1)).isoformat()


def _told(report: TrainingReport) -> dict[str, Any]:
    card = report.version.card
    metadata: dict[str, Any] = {
        "version": report.version.version,
        "uri": report.version.uri,
        "trained_on": f"{card.first_day} to {card.last_day}",
        "features": dg.MetadataValue.json(list(card.features)),
        "card": dg.MetadataValue.json(card.as_json()),
        **report.metrics,
    }
    if report.before is not None:
        metadata["in_service_before"] = report.before.version
        metadata |= {f"{name}_in_service": value for name, value in report.before_metrics.items()}
    return metadata
