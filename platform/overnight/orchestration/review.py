"""Reviews: checks of a published partition that do not decide whether it is published.

Whether scores were good is known only when labels arrive, and whether they have drifted only
beside those of other days. A review looks at what is published and has landed by now; that it
fails is a warning.
"""

# Dagster evaluates the annotations of a check's function, so they are no strings here.
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from overnight.job import InferenceJob
from overnight.orchestration.partition import partition_of

if TYPE_CHECKING:
    from overnight.store import Store
    from overnight.warehouse.connect import Warehouse


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a review may look at.

    Attributes:
        partition: the partition that was published last.
        warehouse: what is published.
        store: what has landed.
        scratch: a local directory for what it needs only while it lasts.
    """

    partition: str
    warehouse: "Warehouse"
    store: "Store"
    scratch: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a review found.

    Attributes:
        passed: whether all is well.
        message: in words, why or why not.
        figures: by name, for Dagster's history of the check.
        plots: images in Markdown, by name; see `overnight.orchestration.plots`.
    """

    passed: bool
    message: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    plots: Mapping[str, str] = field(default_factory=dict)


def review(
    job: InferenceJob, *, name: str, description: str, look: Callable[[Place], Finding]
) -> dg.AssetChecksDefinition:
    """A review as an asset check, which runs after each materialization of the job's table.

    Args:
        job: whose table is reviewed; the resources `warehouse` and `store` are asked.
        name: the check's name.
        description: what it means and what to do when it fails.
        look: the review itself.
    """

    @dg.asset_check(
        asset=job.name,
        name=name,
        description=description,
        required_resource_keys={"warehouse", "store"},
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        resources = context.resources
        partition = partition_of(context.op_execution_context)
        assert partition is not None
        with resources.warehouse.open() as warehouse:
            finding = look(
                Place(
                    partition=partition,
                    warehouse=warehouse,
                    store=resources.store.config.open(),
                    scratch=resources.store.scratch,
                )
            )
        return dg.AssetCheckResult(
            passed=finding.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=finding.message,
            metadata={
                **finding.figures,
                **{title: dg.MetadataValue.md(plot) for title, plot in finding.plots.items()},
            },
        )

    return check
