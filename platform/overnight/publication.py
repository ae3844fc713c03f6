"""A job's published table: its declaration, what it holds already, what goes into it next."""

from __future__ import annotations

import datetime as dt
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import sqlalchemy as sa

from overnight.contract import sql_table
from overnight.job import digest
from overnight.journal import void
from overnight.ledger import record_ledger
from overnight.lineage import contents, record, repairs
from overnight.lineage.record import Counts
from overnight.warehouse.publications import (
    PUBLISHED_HASHES,
    current_publication,
    dead_letter_hashes,
    published_hashes,
)
from overnight.warehouse.publish import Publication
from overnight.warehouse.schema import PUBLISHED
from overnight.warehouse.stage import Stage
from overnight.warehouse.table import add_key, system_columns

if TYPE_CHECKING:
    from overnight.audit import Audit
    from overnight.job import Fingerprint, InferenceJob
    from overnight.ledger import Entry
    from overnight.lineage.record import Attempt
    from overnight.plan import Plan
    from overnight.report import Inference
    from overnight.results import Filled
    from overnight.warehouse.connect import Warehouse


def published_table(job: InferenceJob) -> sa.Table:
    """The output table: the contract's columns, then where each row came from."""
    table = sql_table(
        job.output,
        schema=PUBLISHED,
        name=job.name,
        metadata=sa.MetaData(),
        system_columns=system_columns(),
    )
    if job.publish == "merge":
        # Finds what goes without reading the rest, and what is there from the index alone.
        sa.Index(
            f"{job.name}_input_hash",
            table.c.partition_key,
            table.c["_input_hash"],
            postgresql_include=["_input_id"],
        )
    return add_key(table, job.output_key)


def stage_of(warehouse: Warehouse, job: InferenceJob, attempt: Attempt) -> Stage:
    """Where an attempt's rows wait for their audit."""
    return Stage(warehouse, published_table(job), attempt, computed=tuple(job.over_partition))


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the published table holds of a partition, as far as it can be taken over.

    Attributes:
        rows: `input_hash` of published rows, and `_input_id`, the file it came from.
        dead: dead letters of their publication, with the columns of `Filled.dead`, less those
            to be tried again.
        again: rows to be inferred again, by whom it was asked (`repairs.DECIDED`).
        dropped: dead letters that somebody does without (likewise).
    """

    rows: pl.DataFrame
    dead: pl.DataFrame
    again: pl.DataFrame
    dropped: pl.DataFrame

    @property
    def hashes(self) -> pl.DataFrame:
        """`input_hash` of all of these."""
        return pl.concat([self.rows.select("input_hash"), self.dead.select("input_hash")]).unique()

    @classmethod
    def read(
        cls, warehouse: Warehouse, job: InferenceJob, partition: str, fingerprint: Fingerprint
    ) -> Earlier:
        """Rows count only if model, parameters, `parse` and contract are still the same."""
        with warehouse.connect() as connection:
            again, dropped = (
                repairs.decided(connection, action, job=job.name, partition_key=partition)
                for action in ("retry", "drop")
            )
            dead = dead_letter_hashes(connection, job.name, partition)
            dead = dead.filter(~void(dead, again))
            current = current_publication(connection, job.name, partition)
            if current is None or (current.fingerprint, current.output_version) != (
                fingerprint.id,
                fingerprint.output_version,
            ):
                return cls(PUBLISHED_HASHES.to_frame(), dead.clear(), again, dropped)
            rows = published_hashes(connection, published_table(job), partition)
            return cls(rows, dead, again, dropped)


def publication(
    plan: Plan,
    filled: Filled,
    audited: Audit,
    inference: Inference,
    stage: Stage,
    fingerprint: Fingerprint,
    cost: list[Entry],
) -> Publication:
    """All that the publish transaction writes."""
    inputs = sorted((file.key.rpartition("/")[0], file.digest) for file in plan.inputs)
    return Publication(
        stage=stage,
        rows=filled.staged,
        kept=audited.rows - filled.staged,
        kept_from=filled.kept_from,
        counts=_counts(plan, filled),
        published=audited.published,
        inputs=plan.inputs,
        rejects=plan.rejects,
        dead_letters=filled.dead,
        tokens_in=inference.prompt_tokens,
        tokens_out=inference.output_tokens,
        inference_seconds=inference.busy_seconds,
        also=[functools.partial(record_ledger, attempt=stage.attempt, ledger_entries=cost)],
        ttft=inference.ttft,
        latency=inference.latency,
        data_version=digest([fingerprint.id, fingerprint.output_version, inputs]),
        summary=audited.summary(),
    )


def record_failed_audit(
    warehouse: Warehouse, attempt: Attempt, plan: Plan, filled: Filled, audited: Audit
) -> None:
    """Keep what a person needs to repair a partition that is not published; readers see nothing."""
    with warehouse.begin() as connection:
        contents.record_inputs(connection, attempt, plan.inputs)
        contents.record_rejects(connection, attempt, plan.rejects)
        contents.record_dead_letters(connection, attempt, filled.dead)
        record.record_counts(connection, attempt, _counts(plan, filled))
    decision = {
        "decision": "audit",
        "at": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        "reason": str(audited),
        "checks": audited.summary()["checks"],
    }
    record.add_decision(warehouse, attempt, decision)


def _counts(plan: Plan, filled: Filled) -> Counts:
    return Counts(
        rows_in=plan.rows_in,
        rejected=plan.rejected,
        reused=filled.reused,
        inferred=filled.inferred,
        dead_lettered=filled.dead.height,
    )
