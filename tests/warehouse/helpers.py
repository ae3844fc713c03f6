"""A real warehouse for tests, and rows to publish in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import psutil
import sqlalchemy as sa

from overnight.lineage import record, tables
from overnight.warehouse.publications import DEAD_LETTERS
from overnight.warehouse.publish import Publication
from overnight.warehouse.table import add_key, ensure_table, system_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overnight.warehouse.connect import Warehouse
    from overnight.warehouse.stage import Stage

DAY = "2026-11-21"
ROOT = Path(__file__).parents[2]

NO_REJECTS = pl.DataFrame(
    schema={
        "source": pl.String,
        "file": pl.String,
        "line": pl.Int64,
        "key": pl.String,
        "column": pl.String,
        "value": pl.String,
        "reason": pl.String,
    }
)
NO_DEAD_LETTERS = pl.DataFrame(schema=DEAD_LETTERS)


@dataclass(frozen=True)
class LandingFile:
    source: str = "articles"
    input_id: int = 1
    uri: str = "s3://bucket/landing/articles/2026-11-21/a.jsonl"
    version: str = "v1"
    digest: str = "sha256:00"
    bytes: int = 10
    rows: int = 3


def _quick_place() -> Path | None:
    """Memory, where there is enough: what is killed here are processes, never the machine."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    return memory if roomy else None


@contextlib.contextmanager
def open_home() -> Iterator[Path]:
    """A directory that the server's own user can reach as well, where tests run as root."""
    made = Path(tempfile.mkdtemp(prefix="overnight-test-", dir=_quick_place()))
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def new_table(warehouse: Warehouse, *columns: sa.Column[Any], name: str | None = None) -> sa.Table:
    name = name or f"t_{uuid.uuid4().hex[:12]}"
    own = columns or (
        sa.Column("id", sa.Text, nullable=False, comment="The key"),
        sa.Column("text", sa.Text, comment="What was inferred"),
    )
    table = add_key(
        sa.Table(
            name, sa.MetaData(), *own, *system_columns(), schema="published", comment="A test's"
        ),
        ["id"],
    )
    with warehouse.begin() as connection:
        ensure_table(connection, table)
    return table


def start(
    warehouse: Warehouse, table: sa.Table, *, run_id: str = "run-1", day: str = DAY
) -> record.Attempt:
    return record.start_attempt(
        warehouse,
        job=table.name,
        table=table.fullname,
        partition_key=day,
        run_id=run_id,
        machine="host-a",
        fingerprint=record.FingerprintRecord(fingerprint="f1", engine="trivial"),
        output_version="1",
    )


def hashed(number: int) -> bytes:
    return number.to_bytes(16, "big")


def rows(ids: Sequence[int], text: str, attempt: record.Attempt) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"k{i}" for i in ids],
            "text": [text] * len(ids),
            "_run_id": [attempt.run_id] * len(ids),
            "_attempt": [attempt.attempt] * len(ids),
            "_machine": [attempt.machine] * len(ids),
            "_input_hash": [hashed(i) for i in ids],
            "_input_id": [1] * len(ids),
            "_line": list(ids),
        },
        schema_overrides={"_input_hash": pl.Binary, "id": pl.String, "text": pl.String},
    )


def publication(stage: Stage, count: int, **other: Any) -> Publication:
    settings: dict[str, Any] = {
        "stage": stage,
        "rows": count,
        "published": count,
        "counts": record.Counts(
            rows_in=count, rejected=0, reused=0, inferred=count, dead_lettered=0
        ),
        "inputs": [LandingFile()],
        "rejects": NO_REJECTS,
        "dead_letters": NO_DEAD_LETTERS,
    }
    return Publication(**{**settings, **other})


def read(warehouse: Warehouse, query: str, *values: object) -> list[Any]:
    with warehouse.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query, values or None)]


def texts(warehouse: Warehouse, table: sa.Table) -> dict[str, int]:
    """How many published rows hold which text: a mixture would have two."""
    found = read(warehouse, f"SELECT text, count(*) FROM {table.fullname} GROUP BY text")
    return dict(found)


def python(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A process of its own that runs `code`, so that it can be killed."""
    paths = f"{ROOT / 'platform'}{os.pathsep}{ROOT}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


def kill_server(warehouse: Warehouse) -> None:
    """kill -9 of the server and all of it, as when the machine's memory runs out."""
    pid = warehouse.server_pid
    assert pid is not None
    processes = [psutil.Process(pid), *psutil.Process(pid).children()]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)


def forget_lineage(connection: sa.Connection) -> None:
    """Empty the tables of what was tried and published."""
    for table in reversed(tables.METADATA.sorted_tables):
        if table is not tables.fingerprints:
            connection.execute(sa.delete(table))
