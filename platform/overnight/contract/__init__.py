"""One pandera model per table: its row checks, SQL table, schema, documentation and fingerprint.

A contract declares what a row must be; everything else about a table is derived from it, so
the four can never disagree. Reading files into frames belongs to `overnight.landing`, writing
tables to `overnight.warehouse`.

    class Article(Contract):
        '''Articles as the newsroom exports them.'''

        article_id: str = Field(description="The newsroom's id.", str_length={"min_value": 1})
        words: int | None = Field(description="Length of the body in words.", ge=0)
        published: Timestamp = Field(description="When it went online.")
        embedding: Annotated[pl.Array, pl.Float32, 384] = Field(description="Of the headline.")

A column may be null when its annotation is optional (`X | None`) or with `nullable=True`.
Beyond its own checks every contract refuses what PostgreSQL cannot hold or a reader would not
expect: a NUL character in text, NaN or an infinity in a float (unless the field says
`metadata={"allow_nan": True}`), null elements in lists.
"""

from __future__ import annotations

from pandera.polars import Field

from overnight.contract.checks import VIOLATION_SCHEMA, check_rows, shown
from overnight.contract.declare import (
    ColumnDecl,
    Contract,
    Timestamp,
    arrow_schema,
    columns,
    describe,
    has_row_checks,
    polars_schema,
    table_comment,
)
from overnight.contract.sql_types import PG_DIALECT, Vector
from overnight.contract.table import sql_table

__all__ = [
    "PG_DIALECT",
    "VIOLATION_SCHEMA",
    "ColumnDecl",
    "Contract",
    "Field",
    "Timestamp",
    "Vector",
    "arrow_schema",
    "check_rows",
    "columns",
    "describe",
    "has_row_checks",
    "polars_schema",
    "shown",
    "sql_table",
    "table_comment",
]
