"""What is checked of the text that a job writes: cut off, empty, repeated, of another length.

Counted in the database, over the rows that readers would see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import sqlalchemy as sa

from overnight.checks import Check, graded, passing, query
from overnight.contract import PG_DIALECT
from overnight.drift import stability_index
from overnight.job import EMPTY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overnight.expectations import TextOutput
    from overnight.job import InferenceJob
    from overnight.warehouse.preview import Preview

    Condition = Callable[[Any], sa.ColumnElement[bool]]

__all__ = ["LENGTH_DRIFT", "rows_of", "text_checks", "text_lengths", "text_meanings"]

TRUNCATED_SHARE = "truncated_share"
EMPTY_SHARE = "empty_share"
DUPLICATE_SHARE = "duplicate_share"
LENGTH_DRIFT = "length_drift"

_SHOWN = 60  # characters of a text in a message
_KEYS = 3
_DIGITS = 2  # of a length, so that a day's lengths fit into a few hundred numbers


def text_meanings(text: TextOutput) -> dict[str, str]:
    """The checks of a job's text, with what each of them means."""
    meanings = {
        EMPTY_SHARE: f"Rows whose `{text.column}` is empty, as a row or as a dead letter. If it "
        "fails, look at the source rows of the keys that it names, and at the prompt.",
        DUPLICATE_SHARE: f"Rows whose `{text.column}` another row has, word for word. If it fails, "
        "either the source repeats itself or the model answers everything alike.",
        LENGTH_DRIFT: f"How far the lengths of `{text.column}` have moved from those of the week "
        f"before (PSI, at most {text.drift:g}). A warning: the model, the prompt or the source "
        "has changed.",
    }
    if text.truncated is not None:
        meanings[TRUNCATED_SHARE] = (
            f"Rows with `{text.truncated}`: their `{text.column}` stopped at the token limit. If "
            "it fails, raise the engine's `max_tokens` or shorten what the prompt asks for."
        )
    return meanings


def text_lengths(text: TextOutput, preview: Preview) -> pl.DataFrame:
    """How many `rows` have a text of so many characters (`value`, to two digits)."""
    length = sa.func.length(preview.columns[text.column])
    return rounded(preview.counts_of(length, pl.Int64))


def rounded(lengths: pl.DataFrame) -> pl.DataFrame:
    """Lengths to two digits: a few hundred different ones, however long the texts are."""
    scale = 10.0 ** (pl.col("value").clip(1).log10().floor() - (_DIGITS - 1)).clip(0)
    near = ((pl.col("value") / scale).round() * scale).cast(pl.Int64)
    return lengths.drop_nulls().group_by(value=near).agg(pl.col("rows").sum()).sort("value")


def text_checks(
    job: InferenceJob,
    partition: str,
    preview: Preview,
    rows: int,
    dead: pl.DataFrame,
    lengths: tuple[pl.DataFrame, Mapping[str, pl.DataFrame]],
) -> list[Check]:
    """Check the text of a partition.

    Args:
        job: says which column it is, and what is expected of it.
        partition: which one.
        preview: the rows that readers would see.
        rows: how many there are.
        dead: dead letters.
        lengths: `text_lengths` of the rows, and of the days before.
    """
    text = job.expects.text
    if text is None:
        return []
    found = [
        _empty(job, text, partition, preview, rows, dead),
        _duplicates(job, text, partition, preview, rows),
        _drift(job, text, *lengths),
    ]
    return found if text.truncated is None else [_truncated(job, partition, preview, rows), *found]


def _truncated(job: InferenceJob, partition: str, preview: Preview, rows: int) -> Check:
    text = job.expects.text
    assert text is not None
    assert text.truncated is not None
    column = text.truncated

    def condition(row: Any) -> sa.ColumnElement[bool]:
        return sa.and_(row[column])

    def advice(blocked: bool) -> str:
        where = rows_of(job, partition, preview, condition, blocked=blocked)
        return f"Raise `max_tokens` of the engine, or look at their prompts. {where}"

    return graded(
        TRUNCATED_SHARE,
        preview.count_where(condition),
        rows,
        text.truncated_share,
        f"`{text.column}` stopped at the token limit",
        advice,
    )


def _empty(
    job: InferenceJob,
    text: TextOutput,
    partition: str,
    preview: Preview,
    rows: int,
    dead: pl.DataFrame,
) -> Check:
    def condition(row: Any) -> sa.ColumnElement[bool]:
        return sa.func.coalesce(row[text.column], "").regexp_match("^[[:space:]]*$")

    unwritten = dead.filter(pl.col("reason").str.starts_with(EMPTY))

    def advice(blocked: bool) -> str:
        keys = ", ".join(unwritten["key"].head(_KEYS))
        told = f"Dead letters for that reason: {keys}. " if keys else ""
        where = rows_of(job, partition, preview, condition, blocked=blocked)
        return (
            f"Look at their source rows and at the prompt: {told}{where} To allow more, raise "
            "`TextOutput.empty_share`"
        )

    return graded(
        EMPTY_SHARE,
        preview.count_where(condition) + unwritten.height,
        rows + unwritten.height,
        text.empty_share,
        f"`{text.column}` is empty",
        advice,
    )


def _duplicates(
    job: InferenceJob, text: TextOutput, partition: str, preview: Preview, rows: int
) -> Check:
    if rows < text.least_rows:
        return passing(
            DUPLICATE_SHARE,
            f"{rows} rows: too few to judge by, {text.least_rows} are needed",
            rows=rows,
        )
    column = preview.columns[text.column]
    repeated = rows - preview.count_distinct_of(sa.func.md5(column))

    def advice(blocked: bool) -> str:
        value, often = preview.most_frequent(column)
        shown = value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…"
        seen = query(
            "select {column}, count(*) from published.{job} where partition_key = '{partition}' "
            "group by 1 having count(*) > 1 order by 2 desc",
            column=text.column,
            job=job.name,
            partition=partition,
        )
        where = "Nothing was published." if blocked else f"{seen} shows all of them."
        return (
            f"{often} rows say {shown!r}. {where} If the source has them twice, that is in order: "
            "raise `TextOutput.duplicate_share`; else look at the model and the prompt"
        )

    return graded(
        DUPLICATE_SHARE,
        repeated,
        rows,
        text.duplicate_share,
        f"`{text.column}` repeats another row's",
        advice,
    )


def _drift(
    job: InferenceJob, text: TextOutput, now: pl.DataFrame, before: Mapping[str, pl.DataFrame]
) -> Check:
    week = pl.concat(before.values()) if before else now.clear()
    figures = {"rows": int(now["rows"].sum()), "rows_before": int(week["rows"].sum())}
    days = ", ".join(before) or "none"
    if min(figures.values()) < text.drift_rows:
        message = (
            f"not enough history: {figures['rows']} rows against {figures['rows_before']} of the "
            f"week before, {text.drift_rows} are needed on either side"
        )
        return passing(LENGTH_DRIFT, message, **figures)
    index = stability_index(week, now)
    mean, mean_before = _mean(now), _mean(week)
    figures_all = {**figures, "psi": index, "mean_length": mean, "mean_length_before": mean_before}
    message = (
        f"PSI {index:.3f} (at most {text.drift:g} allowed): `{text.column}` has {mean:.0f} "
        f"characters on average, {mean_before:.0f} in the week before ({days})"
    )
    if index <= text.drift:
        return passing(LENGTH_DRIFT, message, **figures_all)
    compared = query(
        "select partition_key, fingerprint, output_version, published from lineage.latest_runs "
        "where job = '{job}' order by 1 desc limit 8",
        job=job.name,
    )
    return Check(
        LENGTH_DRIFT,
        passed=False,
        message=f"{message}. {compared} shows whether model or prompt changed; else look at the "
        f"source `{job.source.name}`. If the change is meant, it passes after a week; "
        "`TextOutput.drift` allows more",
        figures=figures_all,
        blocking=False,
    )


def _mean(lengths: pl.DataFrame) -> float:
    return float(np.average(lengths["value"].to_numpy(), weights=lengths["rows"].to_numpy()))


def rows_of(
    job: InferenceJob, partition: str, preview: Preview, condition: Condition, *, blocked: bool
) -> str:
    """Where to find the rows that fulfil a condition: by SQL if they are published, else by key.

    Args:
        job: whose they are.
        partition: which of its partitions.
        preview: where they are.
        condition: given the columns.
        blocked: whether they are not published.
    """
    key = job.source.key
    if blocked:
        keys = ", ".join(map(str, preview.some(key, condition, _KEYS)))
        return f"Nothing was published; {key} of some in `{job.source.name}`: {keys or 'none'}."
    table = sa.table(
        job.name, *(sa.column(c.name, c.type) for c in preview.columns), schema="published"
    ).alias("t")
    rows: sa.Select[Any] = (
        sa.select(sa.literal_column("*"))
        .select_from(table)
        .where(table.c.partition_key == partition, condition(table.c))
    )
    compiled = rows.compile(dialect=PG_DIALECT, compile_kwargs={"literal_binds": True})
    # For the driver a percent sign is doubled; a person types it once.
    text = " ".join(str(compiled).split("\n")).replace("%%", "%")
    return f"{query(text)} shows them."
