"""`overnight dead-letters`: rows that could not be inferred, and what a person does about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from overnight.commands.shared import (
    ListGroup,
    check_tried,
    declared_definitions,
    declared_job,
    open_warehouse,
    show,
)
from overnight.errors import ConfigError, PartitionBusyError
from overnight.home import Home

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from overnight.lineage.dead_letters import DeadLetter
    from overnight.lineage.repairs import Action

_PARTITION = click.option("--partition", help="Only this day's, or `all` of a job without days.")


@click.group("dead-letters", cls=ListGroup)
def dead_letters() -> None:
    """Rows of a job that could not be inferred: list, show, retry or drop them."""


@dead_letters.command("list")
@click.argument("job")
@_PARTITION
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
@click.option("--dropped", is_flag=True, help="Those that somebody decided to do without.")
def list_(job: str, partition: str | None, limit: int, *, dropped: bool) -> None:
    """Rows of JOB that could not be inferred, and why."""
    letters = [one for one in _find(job, partition, ()) if (one.dropped_at is not None) == dropped]
    if not letters:
        where = f" on {partition}" if partition else ""
        click.echo(f"no {'dropped ' if dropped else ''}dead letters of {job}{where}")
        return
    names = ["partition_key", "key", "reason", "run_id", "machine", "line"]
    names += ["dropped_by", "dropped_because"] if dropped else []
    show(names, [[getattr(one, name) for name in names] for one in letters[:limit]])
    if len(letters) > limit:
        click.echo(f"{len(letters) - limit} more: --limit shows them")


@dead_letters.command("show")
@click.argument("job")
@click.argument("key")
@_PARTITION
def show_(job: str, key: str, partition: str | None) -> None:
    """All that is known of JOB's dead letter KEY: reason, run, machine, file and line."""
    for one in _find(job, partition, (key,)):
        told = {
            "partition": one.partition_key,
            "key": one.key,
            "reason": one.reason,
            "tried by": f"attempt {one.inferred_attempt}, run {one.run_id}, on {one.machine}",
            "landed in": f"{one.file or '(file not on record)'}, line {one.line}",
            "partition is": "published without it" if one.published else "not published",
        }
        if one.dropped_at is not None:
            why = one.dropped_because or "no reason given"
            told["dropped"] = f"{one.dropped_at:%Y-%m-%d %H:%M} by {one.dropped_by}: {why}"
        for name, value in told.items():
            click.echo(f"{name + ':':<14}{value}")


@dead_letters.command()
@click.argument("job")
@_PARTITION
@click.option("--key", "keys", multiple=True, help="Only this row; may be given several times.")
@click.option("--reason", help="Why, for the record.")
def retry(job: str, partition: str | None, keys: tuple[str, ...], reason: str | None) -> None:
    """Infer JOB's dead letters again, only them, and publish their partitions with them.

    Without --key: all that were not dropped. The run is one of Dagster's like any other.
    """
    from overnight.dev import dagster_home, environment
    from overnight.lineage.dead_letters import newest_dead_letters

    letters = _decide("retry", job, partition, keys, reason)
    from overnight.orchestration.launch import materialize

    home = Home.from_env()
    definitions = declared_definitions()
    # Dagster's history may be in the embedded warehouse, which has to stay up until the end.
    with open_warehouse() as warehouse:
        for day in sorted({one.partition_key for one in letters}):
            asked = {one.key for one in letters if one.partition_key == day}
            click.echo(f"{job} {day}: inferring {len(asked)} dead letters again")
            run_id = materialize(
                definitions,
                job,
                day,
                dagster_home=dagster_home(home),
                environment=environment(home),
                tags={"overnight/repair": "dead-letters"},
            )
            with warehouse.connect() as connection:
                newest = newest_dead_letters(connection, job, day)
            left = [one for one in newest if one.key in asked]
            click.echo(
                f"{job} {day}: {len(asked) - len(left)} of {len(asked)} rows came through and are "
                f"published (run {run_id})"
            )
            for one in left:
                click.echo(f"  still a dead letter: {one.key}: {one.reason}")


@dead_letters.command()
@click.argument("job")
@_PARTITION
@click.option("--key", "keys", multiple=True, required=True, help="A row; may be repeated.")
@click.option("--reason", required=True, help="Why, for the record.")
def drop(job: str, partition: str | None, keys: tuple[str, ...], reason: str) -> None:
    """Decide to do without JOB's dead letters of these keys.

    They stay accounted for as dead letters of their partition; they are no longer listed, and do
    not count against the share of dead letters that the job allows. `retry --key` still can.
    """
    letters = _decide("drop", job, partition, keys, reason)
    for one in letters:
        click.echo(f"{job} {one.partition_key}: {one.key} is dropped ({one.reason})")
    for day in sorted({one.partition_key for one in letters if not one.published}):
        click.echo(f"{job} {day} is not published yet: run it again")


def _find(job: str, partition: str | None, keys: Sequence[str]) -> list[DeadLetter]:
    with open_warehouse() as warehouse, warehouse.connect() as connection:
        return _found(connection, job, partition, keys)


def _found(
    connection: sa.Connection, job: str, partition: str | None, keys: Sequence[str]
) -> list[DeadLetter]:
    from overnight.lineage.dead_letters import newest_dead_letters

    declared = declared_job(job)
    if partition is not None:
        declared.check_partition(partition)
    check_tried(connection, [job], partition)
    letters = newest_dead_letters(connection, job, partition)
    if missing := sorted(set(keys) - {one.key for one in letters}):
        where = f" on {partition}" if partition else ""
        raise ConfigError(
            f"no dead letters of {job}{where} have the key(s) {', '.join(missing)}: see "
            f"`overnight dead-letters list {job}`"
        )
    return [one for one in letters if one.key in keys] if keys else letters


def _decide(
    action: Action, job: str, partition: str | None, keys: Sequence[str], reason: str | None
) -> list[DeadLetter]:
    """Put a decision on record, unless a partition is being worked on right now."""
    from overnight.lineage.dead_letters import as_frame
    from overnight.lineage.live import running
    from overnight.lineage.repairs import decide

    with open_warehouse() as warehouse:
        with warehouse.connect() as connection:
            letters = _found(connection, job, partition, keys)
            busy = {(one.job, one.partition_key) for one in running(connection) if one.alive}
        if not keys or action == "drop":
            letters = [one for one in letters if one.dropped_at is None]
        if not letters:
            click.echo(f"no dead letters of {job}{f' on {partition}' if partition else ''}")
            return []
        for day in sorted({one.partition_key for one in letters}):
            if (job, day) in busy:
                raise PartitionBusyError(
                    f"{job} {day} is being worked on right now (`overnight status`): nothing was "
                    "decided; ask again when it has ended"
                )
        decide(warehouse, action, job=job, dead_letters=as_frame(letters), reason=reason)
    return letters
