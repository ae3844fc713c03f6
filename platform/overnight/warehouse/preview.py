"""What readers would see of a partition if it were published now: counted, not yet visible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from overnight.warehouse.connect import Warehouse

__all__ = ["Preview"]


class Preview:
    """Rows that wait to be published, and those that stay published beside them.

    Args:
        warehouse: where they are.
        rows: what to select from; the published table's columns.
        guarded: surrounds each query, to say in words that what was staged is gone.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        rows: sa.FromClause,
        guarded: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._warehouse = warehouse
        self._rows = rows
        self._guarded = guarded

    @property
    def columns(self) -> sa.ColumnCollection[str, Any]:
        """The rows' columns, for expressions."""
        return self._rows.c

    def count(self) -> int:
        """How many rows there are."""
        return self._number(sa.select(sa.func.count()).select_from(self._rows))

    def count_distinct(self, columns: Sequence[str]) -> int:
        """How many different values, or combinations of values, the columns hold."""
        chosen = sa.select(*(self._rows.c[name] for name in columns)).distinct().subquery()
        return self._number(sa.select(sa.func.count()).select_from(chosen))

    def count_distinct_of(self, expression: sa.ColumnElement[Any]) -> int:
        """How many different values an expression over `columns` has, null not among them."""
        values = sa.select(expression).select_from(self._rows).where(expression.is_not(None))
        return self._number(sa.select(sa.func.count()).select_from(values.distinct().subquery()))

    def counts_of(self, expression: sa.ColumnElement[Any], dtype: Any) -> pl.DataFrame:
        """In how many `rows` an expression over `columns` has which `value`."""
        value = expression.label("value")
        query = sa.select(value, sa.func.count()).select_from(self._rows).group_by(value)
        with self._guarded(), self._warehouse.connect() as connection:
            found = [tuple(row) for row in connection.execute(query)]
        return pl.DataFrame(found, schema={"value": dtype, "rows": pl.Int64}, orient="row")

    def most_frequent(self, column: sa.ColumnElement[Any]) -> tuple[str, int]:
        """The value that most rows have, as text, and how many do; needs a row."""
        count = sa.func.count()
        query = sa.select(column, count).select_from(self._rows).group_by(column)
        with self._guarded(), self._warehouse.connect() as connection:
            value, often = connection.execute(query.order_by(count.desc(), column).limit(1)).one()
        return str(value), often

    def some(
        self, column: str, condition: Callable[[Any], sa.ColumnElement[bool]], limit: int
    ) -> list[Any]:
        """A column of some rows that fulfil a condition, in its order."""
        chosen = self._rows.c[column]
        query = sa.select(chosen).where(condition(self._rows.c)).order_by(chosen).limit(limit)
        with self._guarded(), self._warehouse.connect() as connection:
            return list(connection.execute(query).scalars())

    def count_where(self, condition: Callable[[Any], sa.ColumnElement[bool]]) -> int:
        """How many rows fulfil a condition, given the table's columns."""
        rows = sa.select(sa.func.count()).select_from(self._rows)
        return self._number(rows.where(condition(self._rows.c)))

    def batches(self, schema: pl.Schema, rows: int = 50_000) -> Iterator[pl.DataFrame]:
        """Some columns of all rows, a frame of so many rows at a time."""
        query = sa.select(*(self._rows.c[name] for name in schema))
        options = {"stream_results": True, "yield_per": rows}
        with self._guarded(), self._warehouse.connect() as connection:
            for part in connection.execute(query, execution_options=options).partitions():
                yield pl.DataFrame([tuple(row) for row in part], schema=schema, orient="row")

    def frame(self, limit: int) -> pl.DataFrame:
        """Some of the rows, at most `limit`."""
        with self._guarded(), self._warehouse.connect() as connection:
            rows = connection.execute(sa.select(self._rows).limit(limit)).all()
        return pl.DataFrame(
            [tuple(row) for row in rows],
            schema=self._rows.columns.keys(),
            orient="row",
            infer_schema_length=None,
        )

    def _number(self, query: sa.Select[int]) -> int:
        with self._guarded(), self._warehouse.connect() as connection:
            # A million keys would spill to disk with what a query gets by default.
            connection.exec_driver_sql("SET LOCAL work_mem = '256MB'")
            return connection.execute(query).scalar_one()
