"""The errors that Overnight raises: what happened, where, and what to do next.

Every error that a person can cause or has to act on is an `OvernightError`.
Programming errors stay the built-in exceptions they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from overnight.audit import Audit


class OvernightError(Exception):
    """Base of the family; `retryable` says whether the same call may succeed later."""

    retryable: bool = False


class ConfigError(OvernightError):
    """A setting, a job declaration or a command line is wrong."""


class SourceError(OvernightError):
    """Input cannot be read as declared: names the file and, where known, row, column and value."""


class NotLandedError(SourceError):
    """Nothing has landed for a partition; says where it was looked for."""


class SourceChangedError(SourceError):
    """A landing file was replaced while it was being read."""

    retryable = True


class TooManyRejectsError(SourceError):
    """More rows broke the input contract than the job allows.

    Attributes:
        rejects: The first of them (file, line, key, column, value, reason), or None.
    """

    def __init__(self, message: str, rejects: pl.DataFrame | None = None) -> None:
        """Keep the rejects beside the message, so that they can be recorded."""
        # Both are arguments of the exception, so that it survives pickling whole.
        super().__init__(message, rejects)
        self.rejects = rejects

    def __str__(self) -> str:
        """Only the message."""
        return str(self.args[0])


class ContractError(OvernightError):
    """Staged output breaks its contract, or a contract cannot become a table."""


class ReconciliationError(OvernightError):
    """Rows are missing, duplicated or came from nowhere (promise 1)."""


class ModelError(OvernightError):
    """A model is missing or is not the one that was declared."""


class ModelInServiceError(ModelError):
    """Another version of the model was put in service than the one judged against."""

    retryable = True


class EngineDied(OvernightError):  # noqa: N818 - an event the worker handles, not a fault of the caller
    """The engine is gone; everything it held is undecided."""

    retryable = True


class EngineBrokenError(OvernightError):
    """The engine keeps failing whatever it is given: infrastructure, not rows."""

    retryable = True


class WorkersLostError(OvernightError):
    """No worker is left to go on with."""

    retryable = True


class DrainingError(OvernightError):
    """A worker's machine will be taken away: it hands back what it cannot finish in time.

    Attributes:
        finishing: `input_hash`es of the rows that it still finishes.
    """

    retryable = True

    def __init__(self, message: str, finishing: tuple[bytes, ...] = ()) -> None:
        """Keep the hashes beside the message, so that they survive pickling."""
        super().__init__(message, finishing)
        self.finishing = finishing

    def __str__(self) -> str:
        """Only the message."""
        return str(self.args[0])


class InterruptedRunError(OvernightError):
    """A machine was taken away, and the job does not want to go on after that."""


class DeadlineMissedError(OvernightError):
    """The job's deadline has passed; what was inferred until then is kept."""


class StoreError(OvernightError):
    """The store cannot be reached or refuses an operation."""

    retryable = True


class WarehouseUnavailableError(OvernightError):
    """The warehouse did not answer within the bounded retries; says where it was tried."""

    retryable = True


class StagingLostError(WarehouseUnavailableError):
    """What was staged is gone, as after a crash of Postgres: it has to be staged again."""


class PartitionBusyError(OvernightError):
    """Another attempt is working on this partition right now."""


class StaleAttemptError(OvernightError):
    """A newer attempt exists; this one may not publish (promise 8)."""


class AuditFailedError(OvernightError):
    """What is staged failed a check, so nothing was published; `audit` tells which."""

    def __init__(self, audit: Audit) -> None:
        super().__init__(f"nothing was published: {audit}")
        self.audit = audit
