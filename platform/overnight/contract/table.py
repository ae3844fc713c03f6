"""The SQL table of a contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from overnight.contract.declare import Contract, table_comment
from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTITION_KEY = "partition_key"


def sql_table(
    contract: type[Contract],
    *,
    schema: str | None,
    name: str,
    metadata: sa.MetaData,
    system_columns: Sequence[sa.Column[Any]] = (),
) -> sa.Table:
    """Make the table of a contract: its columns in order, then the system columns.

    The docstring and the descriptions become comments. With a system column `partition_key`, a
    `unique` column is unique within its partition, else in the whole table. The primary key is
    the caller's to add.

    Raises:
        ConfigError: if the contract has no columns.
    """
    declared = contract.__columns__
    if not declared:
        message = f"contract {contract.__name__} declares no columns, so it cannot be a table"
        raise ConfigError(message)
    within = [PARTITION_KEY] if any(one.name == PARTITION_KEY for one in system_columns) else []
    return sa.Table(
        name,
        metadata,
        *(
            sa.Column(one.name, one.sql_type, nullable=one.nullable, comment=one.description)
            for one in declared
        ),
        *system_columns,
        *(sa.UniqueConstraint(*within, one.name) for one in declared if one.unique),
        schema=schema,
        comment=table_comment(contract),
    )
