"""A partition's report as Dagster metadata, with the keys that its UI knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from overnight import ledger
from overnight.checks import dead_letters_command, rejects_command
from overnight.contract import columns
from overnight.landing import landed_sources
from overnight.orchestration import plots
from overnight.orchestration.source import column_schema
from overnight.report import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from overnight.job import InferenceJob
    from overnight.lineage.trail import Trail
    from overnight.report import Inference, PartitionReport
    from overnight.workers.progress import PoolProgress

SHOWN = 120  # characters of a value in the sample


def of_job(job: InferenceJob) -> dict[str, Any]:
    """What is known of a job's table before it has run."""
    return {
        "dagster/table_name": f"published.{job.name}",
        "dagster/column_schema": column_schema(job.output, job.output_key),
        "dagster/column_lineage": column_lineage(job),
        "engine": job.engine.kind,
    }


def column_lineage(job: InferenceJob) -> dg.TableColumnLineage:
    """Columns that are carried come from their namesakes; the others from all that is read.

    Of a derived source, that is what has landed.
    """
    landed = [
        dg.TableColumnDep(asset_key=dg.AssetKey(source.name), column_name=column.name)
        for source in landed_sources(job.source)
        for column in columns(source.contract)
    ]
    carried = {column.name for column in columns(job.source.contract)}
    return dg.TableColumnLineage(
        deps_by_column={
            column.name: [
                dep for dep in landed if column.name in carried and dep.column_name == column.name
            ]
            or landed
            for column in columns(job.output)
        }
    )


def of_partition(report: PartitionReport, total_rows: int, trail: Trail) -> dict[str, Any]:
    """What a materialization shows.

    Args:
        report: what became of the partition.
        total_rows: rows of the whole output table.
        trail: what led to the publication.
    """
    metadata: dict[str, Any] = {
        **of_job(report.job),
        "dagster/row_count": total_rows,
        "dagster/partition_row_count": report.rows,
        "rows_in": report.rows_in,
        "published": report.published,
        "rejected": report.rejected,
        "dead_lettered": report.dead_lettered,
        "inferred": report.inferred,
        "reused": report.reused,
        "attempt": report.attempt,
        "fingerprint": report.fingerprint.id,
        "model": dg.MetadataValue.json(dict(report.fingerprint.identity)),
        "seconds": dg.MetadataValue.json({k: round(v, 3) for k, v in report.seconds.items()}),
        "sample": dg.MetadataValue.md(markdown_table(report.sample)),
    }
    if not report.rows_in:
        metadata["note"] = "The partition has no rows: an empty partition is published."
    if report.inferred:
        metadata |= of_inference(report.inference)
        metadata |= ledger.metadata(report.cost)
    # All that came to pass since the publication before, not only in this attempt.
    metadata |= {
        "attempts": trail.attempts,
        "failures": trail.failures,
        "interruptions": trail.interruptions,
    }
    if report.rejected:
        metadata["rejects"] = dg.MetadataValue.md(_rejects(report, trail))
    if report.dead_lettered:
        command = dead_letters_command(report.job.name, report.partition)
        metadata["dead_letters"] = dg.MetadataValue.md(command)
    return metadata


def _rejects(report: PartitionReport, trail: Trail) -> str:
    """Which commands list the rejects, and the files that they are in."""
    sources = dict.fromkeys(file.source for file in trail.rejected)
    lines = [rejects_command(source, report.partition) for source in sources]
    lines += [f"* {file.rows} in `{file.file}`" for file in trail.rejected]
    return "\n\n".join(lines[: len(sources)]) + "\n\n" + "\n".join(lines[len(sources) :])


def of_inference(inference: Inference) -> dict[str, Any]:
    """What a materialization shows of how the rows that it inferred went."""
    metadata: dict[str, Any] = {
        "rows_per_s": round(inference.rows_per_s, 2),
        "throughput": dg.MetadataValue.md(plots.throughput(inference.samples)),
    }
    if inference.output_tokens or inference.prompt_tokens:
        metadata |= {
            "tokens_per_s": round(inference.tokens_per_s, 1),
            "prompt_tokens": inference.prompt_tokens,
            "output_tokens": inference.output_tokens,
            "cached_tokens": inference.cached_tokens,
            "prefix_cache_hits": round(inference.prefix_cache_hits, 4),
            "output_length": dg.MetadataValue.md(plots.output_length(inference.output_lengths)),
        }
    for name, values in (("ttft", inference.ttft_s), ("latency", inference.latency_s)):
        for quantile, value in zip(QUANTILES, values, strict=False):
            metadata[f"{name}_p{quantile * 100:.0f}_s"] = round(value, 4)
    return metadata | _of_engines(inference.busy_samples)


def _of_engines(samples: Sequence[PoolProgress]) -> dict[str, Any]:
    """How full engines were: the mean and the largest value over time; shares are 0 to 1."""
    if not samples:
        return {}
    series: dict[str, list[float]] = {
        "batch": [sample.batch for sample in samples],
        "queue": [sample.queue for sample in samples],
    }
    for name in sorted({name for sample in samples for name in sample.shares}):
        series[name] = [sample.shares[name] for sample in samples if name in sample.shares]
    shown: dict[str, Any] = {}
    for name, values in series.items():
        shown[f"{name}_mean"] = round(sum(values) / len(values), 4)
        shown[f"{name}_max"] = round(max(values), 4)
    return {**shown, "load": dg.MetadataValue.md(plots.load(samples))}


def markdown_table(frame: pl.DataFrame) -> str:
    """A frame as a Markdown table, long values cut."""
    lines = ["| " + " | ".join(map(_cell, frame.columns)) + " |", "|---" * frame.width + "|"]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in frame.iter_rows()]
    return "\n".join(lines)


def _cell(value: object) -> str:
    text = " ".join(str(value).split())
    cut = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return cut.replace("|", "\\|")
