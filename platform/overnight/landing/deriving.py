"""Reading a partition of any source: landed rows as they are, derived ones as they are derived."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from overnight.contract import check_rows, polars_schema, shown
from overnight.errors import ConfigError, ContractError, OvernightError
from overnight.landing.derived import (
    REJECT_COLUMN,
    REJECT_REASON,
    DerivedSource,
    check_span,
)
from overnight.landing.notes import Landed, Notes
from overnight.landing.reader import INPUT_ID, Batch, Reader
from overnight.landing.rows import LINE, REJECT_SCHEMA
from overnight.landing.spool import LandedRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overnight.landing.reader import InputFile
    from overnight.landing.zone import Source
    from overnight.store import Store

SOURCED_REJECTS = pl.Schema([("source", pl.String()), *REJECT_SCHEMA.items()])
_PLACE = pl.Schema({INPUT_ID: pl.Int64(), LINE: pl.Int64()})
_KEY_CHARACTERS = 200


def reader_of(
    store: Store, source: Source | DerivedSource, partition: str, *, scratch: Path | None = None
) -> Reader | DerivedReader:
    """What reads a partition of a source.

    Args:
        store: where the landing zone is.
        source: what to read.
        partition: an ISO date, or `WHOLE` for a source that reads everything that has landed.
        scratch: where files are kept meanwhile; the system's default if None.

    Raises:
        ConfigError: if the source has no such partition.
    """
    if isinstance(source, DerivedSource):
        return DerivedReader(store, source, partition, scratch=scratch)
    return Reader(store, source, partition, scratch=scratch)


class DerivedReader:
    """Reads one partition of a derived source; landed rows wait on disk."""

    def __init__(
        self,
        store: Store,
        source: DerivedSource,
        partition: str,
        *,
        batch_rows: int = 16_384,
        scratch: Path | None = None,
    ) -> None:
        """Prepare to read; nothing is touched yet. See `reader_of`."""
        self.inputs: list[InputFile] = []
        self._store = store
        self._source = source
        self._partition = check_span(source, partition)
        self._batch_rows = batch_rows
        self._scratch = scratch

    def batches(self) -> Iterator[Batch]:
        """Rejects of landed rows first, then derived rows; `inputs` is complete after the former.

        Raises:
            NotLandedError: if a day that is required has not landed.
            SourceError: if a file cannot be read as a whole.
            SourceChangedError: if a file was replaced, removed or added meanwhile.
            ConfigError: if `derive` raises.
            ContractError: if what it returns has not the contract's columns, or rows that are
                traced to no file that was read.
        """
        none = pl.Schema({**polars_schema(self._source.contract), **_PLACE}).to_frame()
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="derive-", dir=self._scratch) as folder:
            rows = LandedRows(
                self._store,
                self._source.inputs,
                self._partition,
                Path(folder),
                batch_rows=self._batch_rows,
            )
            for rejects in rows.read():
                yield Batch(none, rejects)
            self.inputs = rows.inputs
            for frame in self._derived(rows.frames, Path(folder)):
                slices = self._require_frame(frame).iter_slices(self._batch_rows)
                yield from map(self._checked, slices)

    def _derived(self, frames: dict[str, pl.LazyFrame], folder: Path) -> Iterator[pl.DataFrame]:
        try:
            landed = Landed(frames, Notes(self._store, self._source.name))
            derived: Any = self._source.derive(self._partition, landed)
            if isinstance(derived, pl.LazyFrame):
                # By way of the disk: polars does not wait for a slow reader of its batches.
                derived.sink_ipc(folder / "derived", compression="lz4")
                derived = _slices(pl.scan_ipc(folder / "derived"), self._batch_rows)
            yield from [derived] if isinstance(derived, pl.DataFrame) else derived
        except OvernightError:
            raise
        except Exception as error:  # it is the job's code, and may raise anything
            raise ConfigError(
                f"derived source {self._source.name!r}: derive raised {type(error).__name__} for "
                f"{self._partition}: {error}"
            ) from error

    def _checked(self, frame: pl.DataFrame) -> Batch:
        frame = self._placed(frame)
        told = pl.lit(None, pl.String).alias(REJECT_REASON)
        if REJECT_REASON not in frame.columns:
            frame = frame.with_columns(told)
        if REJECT_COLUMN not in frame.columns:
            frame = frame.with_columns(told.alias(REJECT_COLUMN))
        bad = frame.filter(pl.col(REJECT_REASON).is_not_null())
        fine = frame.filter(pl.col(REJECT_REASON).is_null())
        try:
            ok, violations = check_rows(self._source.contract, fine)
        except ContractError as error:
            raise ContractError(f"derived source {self._source.name!r}: {error}") from error
        names = [*polars_schema(self._source.contract).names(), *_PLACE]
        if ok.all() and bad.is_empty():
            return Batch(fine.select(names), SOURCED_REJECTS.to_frame())
        rejects = pl.concat([self._told(bad), self._broken(fine, violations)])
        return Batch(fine.filter(ok).select(names), self._located(rejects))

    def _require_frame(self, frame: Any) -> pl.DataFrame:
        if isinstance(frame, pl.DataFrame):
            return frame
        raise ConfigError(
            f"derived source {self._source.name!r}: derive gave {type(frame).__name__} instead of "
            "a DataFrame"
        )

    def _placed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Refuse rows that lead to no landed file."""
        who = f"derived source {self._source.name!r}"
        missing = [name for name in _PLACE if name not in frame.columns]
        if missing:
            raise ContractError(
                f"{who}: derive returned rows without {missing}; keep them of the landed row that "
                f"each is traced to. It returned {frame.columns}"
            )
        known = pl.Series([file.input_id for file in self.inputs], dtype=pl.Int64)
        lost = frame.filter(
            ~pl.col(INPUT_ID).is_in(known.implode()).fill_null(value=False) | pl.col(LINE).is_null()
        )
        if lost.height:
            row = lost.row(0, named=True)
            raise ContractError(
                f"{who}: derive returned a row ({self._source.key}="
                f"{row.get(self._source.key)!r}) that is traced to _input_id={row[INPUT_ID]!r}, "
                f"_line={row[LINE]!r}, which is no landed row that was read"
            )
        return frame.cast(_PLACE)

    def _told(self, bad: pl.DataFrame) -> pl.DataFrame:
        """What `derive` itself found wrong."""
        values = [
            shown(row[row[REJECT_COLUMN]]) if row[REJECT_COLUMN] in row else None
            for row in bad.iter_rows(named=True)
        ]
        return self._of(bad).with_columns(
            column=bad[REJECT_COLUMN].cast(pl.String),
            value=pl.Series(values, dtype=pl.String),
            reason=bad[REJECT_REASON].cast(pl.String),
        )

    def _broken(self, frame: pl.DataFrame, violations: pl.DataFrame) -> pl.DataFrame:
        """What breaks the contract: of several wrong columns the first, and how many."""
        wrong = pl.col("column").n_unique()
        first = violations.group_by("row", maintain_order=True).agg(
            pl.col("column").first().alias("first"),
            pl.col("value").first(),
            pl.when(wrong > 1)
            .then(pl.format("{} (one of {} wrong columns)", pl.col("reason").first(), wrong))
            .otherwise(pl.col("reason").first())
            .alias("reason"),
        )
        return self._of(frame[first["row"]]).hstack(
            first.select(column="first", value="value", reason="reason")
        )

    def _of(self, frame: pl.DataFrame) -> pl.DataFrame:
        key = self._source.key
        keys = (
            frame[key].cast(pl.String).str.slice(0, _KEY_CHARACTERS)
            if key in frame.columns
            else pl.repeat(None, frame.height, dtype=pl.String, eager=True)
        )
        return frame.select(INPUT_ID, LINE).with_columns(key=keys)

    def _located(self, rejects: pl.DataFrame) -> pl.DataFrame:
        files = pl.DataFrame(
            [(file.input_id, file.uri, file.source) for file in self.inputs],
            schema={INPUT_ID: pl.Int64, "file": pl.String, "source": pl.String},
            orient="row",
        )
        return (
            rejects.join(files, on=INPUT_ID, how="left", maintain_order="left")
            .rename({LINE: "line"})
            .select(SOURCED_REJECTS.names())
        )


def _slices(frame: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """The rows of a file, some at a time."""
    offset = 0
    while (part := frame.slice(offset, rows).collect()).height:
        yield part
        offset += rows
