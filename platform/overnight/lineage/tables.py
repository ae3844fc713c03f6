"""The lineage tables: what was tried, with what, from which files, and what became of it.

Declarations only. Rows are written by `record` and by the publish transaction; the tables
are created by `overnight.warehouse.schema`. New columns go at the end of a table and are
nullable, so that a warehouse in use takes them on.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

__all__ = [
    "METADATA", "SCHEMA", "VIEWS", "alerts", "attempts", "dead_letters", "fingerprints", "inputs",
    "ledger", "partitions", "progress", "rejects", "repairs",
    "runs",
]  # fmt: skip

SCHEMA = "lineage"
METADATA = sa.MetaData(schema=SCHEMA)

_NOW = sa.text("now()")
_OUTCOMES = ("running", "published", "failed", "refused", "interrupted", "unchanged")


def _col(name: str, kind: Any, comment: str, **how: Any) -> sa.Column[Any]:
    how.setdefault("nullable", how.get("primary_key") is None and how.pop("null", False))
    return sa.Column(name, kind, comment=comment, **how)


def _attempt(*, key: bool = False) -> sa.Column[Any]:
    target = sa.ForeignKey(f"{SCHEMA}.attempts.attempt")
    return sa.Column(
        "attempt", sa.BigInteger, target, primary_key=key, nullable=False, autoincrement=False,
        comment="The attempt, which is its fencing token as well",
    )  # fmt: skip


def _job() -> tuple[sa.Column[Any], sa.Column[Any]]:
    return (
        _col("job", sa.Text, "The inference job"),
        _col("partition_key", sa.Text, "The partition: a date, or all"),
    )


def _count(name: str, comment: str, *, null: bool = False) -> sa.Column[Any]:
    return _col(name, sa.BigInteger, comment, null=null)


def _gpu_seconds(name: str, comment: str) -> sa.Column[Any]:
    return _col(name, sa.Double, f"GPU-seconds: {comment}")


def _dollars(name: str, comment: str) -> sa.Column[Any]:
    return _col(name, sa.Numeric(18, 6), f"USD: {comment}", null=True)


fingerprints = sa.Table(
    "fingerprints", METADATA,
    _col("fingerprint", sa.Text, "Digest of what decides a result", primary_key=True),
    _col("engine", sa.Text, "The engine's kind, e.g. vllm.generate"),
    _col("model_uri", sa.Text, "Where the model was read from", null=True),
    _col("model_digest", sa.Text, "Digest of the model's files", null=True),
    _col("parameters", JSONB, "The engine's parameters", null=True),
    _col("first_seen", sa.DateTime(timezone=True), "When it was used first", server_default=_NOW),
    comment="What decided the results: model, prompt, parameters, output contract",
)  # fmt: skip

attempts = sa.Table(
    "attempts", METADATA,
    sa.Column(
        "attempt", sa.BigInteger, sa.Identity(always=True), primary_key=True,
        comment="Number of the attempt; the higher one wins (fencing token)",
    ),
    _col("run_id", sa.Text, "The orchestrator's run"),
    *_job(),
    _col("table_name", sa.Text, "The published table it works for"),
    _col("fingerprint", sa.Text, "With what it infers"),
    _col("output_version", sa.Text, "Version of parsing and output contract"),
    _col("prepare_source", sa.Text, "The function that made its requests (prompts)", null=True),
    _col("machine", sa.Text, "Where the driver ran", null=True),
    _col("started_at", sa.DateTime(timezone=True), "When it began", server_default=_NOW),
    _col("ended_at", sa.DateTime(timezone=True), "When it ended; null while it runs", null=True),
    _col("outcome", sa.Text, "One of: " + ", ".join(_OUTCOMES), server_default="running"),
    _col("error", sa.Text, "Why it failed, without secrets", null=True),
    _count("rows_in", "Rows read, rejects included; null if it did not get that far", null=True),
    _count("rejected", "Rows that broke the input contract", null=True),
    _count("reused", "Rows taken over from before", null=True),
    _count("inferred", "Rows inferred by this attempt", null=True),
    _count("dead_lettered", "Rows that could not be inferred", null=True),
    _col("decisions", JSONB, "What was decided on the way, and why", server_default="[]"),
    sa.CheckConstraint(sa.column("outcome").in_(_OUTCOMES), name="attempts_outcome"),
    sa.Index("attempts_of_partition", "job", "partition_key", "attempt"),
    comment="Every try at a partition, the failed ones too",
)  # fmt: skip

runs = sa.Table(
    "runs", METADATA,
    _attempt(key=True),
    _col("run_id", sa.Text, "The orchestrator's run"),
    *_job(),
    _col("table_name", sa.Text, "The published table"),
    _col("fingerprint", sa.Text, "With what it was inferred"),
    _col("output_version", sa.Text, "Version of parsing and output contract"),
    _count("rows_in", "Rows read = published + rejected + dead_lettered"),
    _count("published", "Rows that readers see"),
    _count("rejected", "Rows that broke the input contract"),
    _count("dead_lettered", "Rows that could not be inferred"),
    _count("inferred", "Rows inferred for this publication"),
    _count("reused", "Rows taken over from before"),
    _count("tokens_in", "Tokens read by the model", null=True),
    _count("tokens_out", "Tokens generated", null=True),
    _col("inference_seconds", sa.Double, "Seconds spent inferring", null=True),
    _col("data_version", sa.Text, "Digest of the published partition's content", null=True),
    _col("published_at", sa.DateTime(timezone=True), "When readers saw it", server_default=_NOW),
    _col("summary", JSONB, "Results of the audit and whatever else belongs to it", null=True),
    _col("ttft", JSONB, "Time to first token of the inferred rows: bins, sum (seconds)", null=True),
    _col("latency", JSONB, "Time to the last token of the inferred rows, likewise", null=True),
    sa.Index("runs_of_partition", "job", "partition_key", "attempt"),
    comment="Every publication of a partition; the current ones are in latest_runs",
)  # fmt: skip

inputs = sa.Table(
    "inputs", METADATA,
    _attempt(key=True),
    _col(
        "input_id", sa.BigInteger, "What _input_id in published rows refers to",
        primary_key=True, autoincrement=False,
    ),
    _col("source", sa.Text, "The source it belongs to"),
    _col("uri", sa.Text, "The landing file"),
    _col("version", sa.Text, "The store's version of it (etag, or time and size)", null=True),
    _col("digest", sa.Text, "Digest of its content", null=True),
    _count("bytes", "Its size", null=True),
    _count("rows", "Its rows, rejects included", null=True),
    comment="The files each publication was made from",
)  # fmt: skip

rejects = sa.Table(
    "rejects", METADATA,
    _attempt(),
    _col("source", sa.Text, "The source"),
    *_job(),
    _col("file", sa.Text, "The landing file"),
    _col("line", sa.BigInteger, "The row in the file, counted from 1", null=True),
    _col("key", sa.Text, "The row's key, if it has one", null=True),
    _col("column", sa.Text, "The column that broke the contract", null=True),
    _col("value", sa.Text, "Its value, shortened", null=True),
    _col("reason", sa.Text, "What is wrong with it"),
    sa.Index("rejects_of_attempt", "attempt"),
    comment="Rows that broke the input contract (the first ten thousand of an attempt)",
)  # fmt: skip

dead_letters = sa.Table(
    "dead_letters", METADATA,
    _attempt(),
    *_job(),
    _col("key", sa.Text, "The row's key"),
    _col("input_hash", sa.LargeBinary, "Digest of the row and its request"),
    _col("reason", sa.Text, "Why it could not be inferred"),
    _col("run_id", sa.Text, "The run that tried", null=True),
    _col("inferred_attempt", sa.BigInteger, "The attempt that tried", null=True),
    _col("machine", sa.Text, "The machine that tried", null=True),
    _col("input_id", sa.BigInteger, "The landing file, see inputs", null=True),
    _col("line", sa.BigInteger, "The row in the file, counted from 1", null=True),
    sa.Index("dead_letters_of_attempt", "attempt"),
    comment="Rows that could not be inferred, as of each publication",
)  # fmt: skip

ledger = sa.Table(
    "ledger", METADATA,
    _attempt(),
    *_job(),
    _col("table_name", sa.Text, "The published table it was spent on"),
    _col("started_at", sa.DateTime(timezone=True), "When the attempt began"),
    _col("machine", sa.Text, "The worker's machine"),
    _col("instance_type", sa.Text, "Its type; null outside of clouds", null=True),
    _col("zone", sa.Text, "Its availability zone", null=True),
    _col("market", sa.Text, "How it was bought: spot, on_demand or unknown"),
    _col("gpus", sa.Double, "Its devices; a machine without a GPU counts as one"),
    _col("machine_s", sa.Double, "Its seconds of wall-clock, which are what is paid for"),
    _gpu_seconds("useful_gpu_s", "inferring rows that were kept"),
    _gpu_seconds("recomputed_gpu_s", "inferring again what was lost"),
    _gpu_seconds("cold_start_gpu_s", "starting the engine"),
    _gpu_seconds("idle_gpu_s", "ready, without work"),
    _gpu_seconds("draining_gpu_s", "from a notice of interruption to the hand-back"),
    _count("rows", "Rows inferred"),
    _count("prompt_tokens", "Tokens read"),
    _count("output_tokens", "Tokens generated"),
    _count("recomputed_tokens", "Tokens generated again"),
    _count("interruptions", "How often the machine was taken away"),
    _dollars("dollars", "what the machine cost; null if its price is not known"),
    _dollars("saved_dollars", "what it would have cost more on demand"),
    _dollars("interruption_dollars", "of dollars: work done again, drains, starts anew"),
    _dollars("price_per_hour", "what an hour of the machine cost"),
    _col("price_source", sa.Text, "Who says so: aws, table (a dated list), setting or none"),
    _col("price_as_of", sa.DateTime(timezone=True), "Since when it was the price", null=True),
    _dollars("on_demand_per_hour", "what an hour of it costs on demand"),
    _col("on_demand_source", sa.Text, "Who says so: aws, table or none"),
    _col("price_note", sa.Text, "Why there is no price, or what was assumed", null=True),
    sa.Index("ledger_of_attempt", "attempt"),
    sa.Index("ledger_by_time", "started_at"),
    comment="What each attempt cost, the failed ones too: one row for each machine",
)  # fmt: skip

partitions = sa.Table(
    "partitions", METADATA,
    _col("job", sa.Text, "The inference job", primary_key=True),
    _col("partition_key", sa.Text, "The partition: a date, or all", primary_key=True),
    _col("token", sa.BigInteger, "The newest attempt; only this one may publish"),
    _col("published_attempt", sa.BigInteger, "The attempt whose rows readers see", null=True),
    _col("published_at", sa.DateTime(timezone=True), "When they came to see them", null=True),
    comment="The fence: who may publish a partition, and who did",
)  # fmt: skip

repairs = sa.Table(
    "repairs", METADATA,
    *_job(),
    _col("key", sa.Text, "The row's key"),
    _col("input_hash", sa.LargeBinary, "Digest of the row and its request"),
    _col("inferred_attempt", sa.BigInteger, "The attempt that had made it a dead letter"),
    _col("action", sa.Text, "retry: infer it again; drop: it is not wanted any more"),
    _col("reason", sa.Text, "Why, in that person's words", null=True),
    _col("asked_by", sa.Text, "Who asked, and where"),
    _col("asked_at", sa.DateTime(timezone=True), "When", server_default=_NOW),
    sa.CheckConstraint(sa.column("action").in_(("retry", "drop")), name="repairs_action"),
    sa.Index("repairs_of_partition", "job", "partition_key"),
    comment="What people decided about dead letters",
)  # fmt: skip

alerts = sa.Table(
    "alerts", METADATA,
    _col("id", sa.Text, "Names the event, so that it is told once", primary_key=True),
    _col("kind", sa.Text, "run_failed or late"),
    _col("job", sa.Text, "What it is about"),
    _col("partition", sa.Text, "Of the job; empty if there is none"),
    _col("happened_at", sa.Text, "When it happened, ISO 8601"),
    _col("text", sa.Text, "What happened, and which command shows more"),
    _col("created_at", sa.DateTime(timezone=True), "When it was noticed", server_default=_NOW),
    _col("sent_at", sa.DateTime(timezone=True), "When the webhook took it", null=True),
    _col("tries", sa.BigInteger, "How often it was tried", server_default="0"),
    _col("last_error", sa.Text, "Why the webhook did not take it, last time", null=True),
    comment="Alerts on their way to the webhook: those without sent_at are tried again",
)  # fmt: skip

progress = sa.Table(
    "progress", METADATA,
    _attempt(key=True),
    _col("told_at", sa.DateTime(timezone=True), "When the attempt told this", server_default=_NOW),
    _col("seconds", sa.Double, "Seconds since workers were asked for"),
    _count("rows", "Rows inferred so far"),
    _count("total", "Rows to infer"),
    _col("rows_per_s", sa.Double, "Rows a second of late"),
    _col("tokens_per_s", sa.Double, "Tokens a second of late, read and generated"),
    _count("prompt_tokens", "Tokens read so far"),
    _count("output_tokens", "Tokens generated so far"),
    _count("in_flight", "Rows that engines hold"),
    _count("waiting", "Rows that workers hold for their engines"),
    _count("workers", "Workers that are ready"),
    _count("lost", "Workers lost so far"),
    _count("interrupted", "Workers lost so far because their machine was taken away"),
    _col("gauges", JSONB, "What the engines say of themselves, e.g. kv_cache_usage"),
    _col("ttft", JSONB, "Time to first token: rows in each bin of the progress histogram"),
    _col("latency", JSONB, "Time to the last token, likewise"),
    comment="How far each attempt was when it told last, every few seconds; not the short ones",
)  # fmt: skip

# Name, what it shows, and its query. A query may only ever gain columns at its end.
VIEWS: tuple[tuple[str, str, str], ...] = (
    (
        "latest_runs",
        "The publication that readers see now, of each job and partition",
        """
        SELECT r.* FROM lineage.runs r
        JOIN lineage.partitions p ON p.published_attempt = r.attempt
        """,
    ),
    (
        "current_rejects",
        "The rejects of the newest attempt that read the partition",
        """
        SELECT r.* FROM lineage.rejects r
        JOIN (
            SELECT max(attempt) AS attempt FROM lineage.attempts
            WHERE rejected IS NOT NULL AND outcome <> 'unchanged'
            GROUP BY job, partition_key
        ) newest ON newest.attempt = r.attempt
        """,
    ),
    (
        "current_dead_letters",
        "The rows missing from what readers see now because they could not be inferred",
        """
        SELECT d.*, (
            SELECT max(r.asked_at) FROM lineage.repairs r
            WHERE r.action = 'drop' AND r.job = d.job AND r.partition_key = d.partition_key
            AND r.input_hash = d.input_hash AND r.inferred_attempt >= d.inferred_attempt
        ) AS dropped_at
        FROM lineage.dead_letters d
        JOIN lineage.partitions p ON p.published_attempt = d.attempt
        """,
    ),
    (
        "nightly_cost",
        "What each job cost on each day (UTC, by when an attempt began), and interruptions of it",
        """
        SELECT
            (started_at AT TIME ZONE 'UTC')::date AS day, job, table_name,
            sum(dollars) AS dollars,
            sum(saved_dollars) AS saved_dollars,
            sum(interruption_dollars) AS interruption_dollars,
            sum(useful_gpu_s) / nullif(sum(
                useful_gpu_s + recomputed_gpu_s + cold_start_gpu_s + idle_gpu_s + draining_gpu_s
            ), 0) AS goodput,
            sum(rows)::bigint AS rows,
            sum(prompt_tokens)::bigint AS prompt_tokens,
            sum(output_tokens)::bigint AS output_tokens,
            sum(recomputed_tokens)::bigint AS recomputed_tokens,
            sum(interruptions)::bigint AS interruptions,
            sum(useful_gpu_s) AS useful_gpu_s,
            sum(recomputed_gpu_s) AS recomputed_gpu_s,
            sum(cold_start_gpu_s) AS cold_start_gpu_s,
            sum(idle_gpu_s) AS idle_gpu_s,
            sum(draining_gpu_s) AS draining_gpu_s,
            count(DISTINCT attempt) AS attempts,
            count(*) FILTER (WHERE dollars IS NULL) AS machines_without_price,
            count(*) FILTER (WHERE price_source = 'table') AS machines_priced_by_table
        FROM lineage.ledger
        GROUP BY 1, 2, 3
        """,
    ),
)
