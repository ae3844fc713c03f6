"""The lease of a partition: at most one attempt works on it at a time.

A lock of a Postgres session, on a connection of its own: a killed process loses it at once,
because the kernel closes its sockets. It saves double work. It does not protect readers,
because a lock can be lost without its holder noticing: that is what the fencing token does.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy as sa

from overnight.crashpoints import reach, register
from overnight.errors import PartitionBusyError
from overnight.lineage import tables
from overnight.warehouse.table import lock_key

if TYPE_CHECKING:
    from typing import Self

    from overnight.warehouse.connect import Warehouse

__all__ = ["PartitionLease", "await_lease", "held_leases", "lease_key"]

register("lease.before_take", "lease.after_take", "lease.before_release", "lease.after_release")

# The server takes a moment to notice that a killed process is gone.
_DYING = "1s"
_LOOK_S = 2.0


def lease_key(job: str, partition_key: str) -> int:
    """The 64-bit number of the partition's lock."""
    return lock_key("overnight.partition", job, partition_key)


def held_leases(connection: sa.Connection) -> set[int]:
    """The numbers of all leases that somebody holds now, among other advisory locks."""
    held = sa.text(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks "
        "WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return set(connection.execute(held).scalars())


def await_lease(warehouse: Warehouse, *, job: str, partition_key: str) -> None:
    """Wait until nobody works on a partition; somebody else may be the first to begin then.

    Raises:
        WarehouseUnavailableError: if the warehouse does not answer.
    """
    key = lease_key(job, partition_key)
    while True:
        with warehouse.connect() as connection:
            if key not in held_leases(connection):
                return
        time.sleep(_LOOK_S)


class PartitionLease:
    """A held lease; released by `release`, or with the process that holds it."""

    def __init__(self, connection: sa.Connection) -> None:
        """Not for direct use: see `take`."""
        self._connection: sa.Connection | None = connection

    @classmethod
    def take(cls, warehouse: Warehouse, *, job: str, partition_key: str) -> Self:
        """Takes the lease, or fails after the second that a dying holder may need.

        Raises:
            PartitionBusyError: if another attempt holds it; names run, attempt, machine
                and start.
            WarehouseUnavailableError: if the warehouse does not answer.
        """
        connection = warehouse.session()
        try:
            reach("lease.before_take")
            if _lock(connection, lease_key(job, partition_key)):
                reach("lease.after_take")
                return cls(connection)
            busy = _busy(connection, job, partition_key)
        except BaseException:
            connection.close()
            raise
        connection.close()
        raise PartitionBusyError(busy)

    def alive(self) -> bool:
        """Whether the lease is still held, asked from the warehouse."""
        if self._connection is None:
            return False
        try:
            self._connection.execute(sa.text("SELECT"))
        except sa.exc.SQLAlchemyError:
            return False
        return True

    def release(self) -> None:
        """Gives the lease back. Safe to call twice, or when it was lost."""
        connection, self._connection = self._connection, None
        if connection is not None:
            reach("lease.before_release")
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                # Closing would do as well, but the server notices that a moment later.
                connection.execute(sa.text("SELECT pg_advisory_unlock_all()"))
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                connection.close()
            reach("lease.after_release")


def _lock(connection: sa.Connection, key: int) -> bool:
    connection.exec_driver_sql(f"SET lock_timeout = '{_DYING}'")
    try:
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": key})
    except sa.exc.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            return False
        raise
    return True


def _busy(connection: sa.Connection, job: str, partition_key: str) -> str:
    attempts = tables.attempts.c
    newest = (
        sa.select(attempts.run_id, attempts.attempt, attempts.machine, attempts.started_at)
        .where(attempts.job == job, attempts.partition_key == partition_key)
        .where(attempts.outcome == "running")
        .order_by(attempts.attempt.desc())
        .limit(1)
    )
    holder = connection.execute(newest).first()
    who = (
        "an attempt that is just starting"
        if holder is None
        else f"attempt {holder.attempt} of run {holder.run_id} on {holder.machine}, "
        f"since {holder.started_at:%Y-%m-%d %H:%M:%S %Z}"
    )
    return (
        f"Partition {partition_key} of {job} is being worked on by {who}: wait for it, or end "
        "that process (its lease is then free at once)"
    )
