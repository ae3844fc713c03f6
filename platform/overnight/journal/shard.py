"""One shard: a table of records in an envelope that proves it is whole and belongs here.

    magic (8 bytes) | length of the body (8, little endian) | BLAKE2b-256 (32) | body

The body is an Arrow IPC stream, LZ4-compressed. The digest also covers the journal's prefix, so a
shard that was copied from another job, fingerprint or partition is as foreign as a torn one.
"""

from __future__ import annotations

import hashlib
import re
import struct

import numpy as np
import pyarrow as pa

_MAGIC = b"OVNJRNL1"
_HEADER = struct.Struct("<8sQ32s")
_NAME = re.compile(r"\d{6,}-[A-Za-z0-9_.-]+-\d{8,}-[0-9a-f]{8}\.arrow")
_WORKER = re.compile(r"[A-Za-z0-9_.-]{1,100}")
# A shard is too small for threads to be worth it, least of all beside an engine that has them.
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_SLACK = 1 << 20
"""Bytes for what is no record: the schema, and the padding of buffers."""

RECORD_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("input_hash", pa.binary(16)),
        pa.field("failure", pa.string()),
        pa.field("run_id", pa.string()),
        pa.field("attempt", pa.int64()),
        pa.field("machine", pa.string()),
    ]
)
"""The columns of every record; `failure` is null for a finished row. The payload follows."""


class ShardError(ValueError):
    """A file that is not a whole shard of this journal: torn, damaged or foreign."""


def prefix_of(job: str, fingerprint: str, partition: str) -> str:
    """The folder of a journal."""
    return f"journal/{job}/{fingerprint}/{partition}"


def check_worker(worker: str) -> None:
    """Refuse a worker name that cannot be part of a shard's name.

    Raises:
        ValueError: if it has other characters than `A-Z a-z 0-9 _ . -`.
    """
    if not _WORKER.fullmatch(worker):
        message = f"worker name {worker!r}: use 1 to 100 of A-Z a-z 0-9 _ . -"
        raise ValueError(message)


def shard_name(attempt: int, worker: str, sequence: int, data: bytes | memoryview) -> str:
    """`<attempt>-<worker>-<sequence>-<digest>.arrow`: sorts by age, unique by content."""
    digest: bytes = _HEADER.unpack_from(data)[2]
    return f"{attempt:06d}-{worker}-{sequence:08d}-{digest.hex()[:8]}.arrow"


def is_shard_name(name: str) -> bool:
    """Whether a file could be a shard, by its name alone."""
    return _NAME.fullmatch(name) is not None


def encode(prefix: str, tables: list[pa.Table]) -> memoryview:
    """A shard's bytes; the tables have the same schema.

    Raises:
        pyarrow.ArrowInvalid: if the schemas differ.
    """
    table = pa.concat_tables(tables).combine_chunks()
    # More than it can take, compressed or not: what is not written to costs nothing.
    room = table.nbytes + table.get_total_buffer_size() + _SLACK
    data = np.empty(_HEADER.size + room, np.uint8).data
    sink = pa.FixedSizeBufferWriter(pa.py_buffer(data[_HEADER.size :]))
    with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table)
    whole = data[: _HEADER.size + sink.tell()]
    body = whole[_HEADER.size :]
    _HEADER.pack_into(data, 0, _MAGIC, len(body), _digest(prefix, body))
    return whole


def decode(prefix: str, data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The records of a shard; only the columns asked for are decompressed.

    Raises:
        KeyError: if it has no such column.
        ShardError: if the bytes are not a whole shard of the journal at `prefix`.
    """
    if len(data) < _HEADER.size:
        message = f"{len(data)} bytes are less than a header"
        raise ShardError(message)
    magic, length, digest = _HEADER.unpack_from(data)
    body = memoryview(data)[_HEADER.size :]
    if magic != _MAGIC:
        message = "it does not start like a shard"
        raise ShardError(message)
    if length != len(body):
        message = f"it should have {length} bytes after the header, and has {len(body)}"
        raise ShardError(message)
    if digest != _digest(prefix, body):
        message = "its checksum differs: damaged, or written for another journal"
        raise ShardError(message)
    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            schema = reader.schema
        if not RECORD_SCHEMA.equals(_select(schema)):
            message = "its columns are not those of a record"
            raise ShardError(message)
        wanted = schema.names if columns is None else columns
        options = pa.ipc.IpcReadOptions(included_fields=[_index(schema, name) for name in wanted])
        with pa.ipc.open_stream(pa.py_buffer(body), options=options) as reader:
            return reader.read_all().select(wanted)
    except pa.ArrowException as error:
        message = f"Arrow cannot read it: {error}"
        raise ShardError(message) from None


def conform(table: pa.Table) -> pa.Table:
    """A table with the record's columns first and of the right types, then the payload.

    Raises:
        ValueError: if a column of the record is missing, cannot be cast, or holds nulls where
            every record has a value.
    """
    missing = set(RECORD_SCHEMA.names) - set(table.schema.names)
    if missing:
        message = f"journal records lack {sorted(missing)}"
        raise ValueError(message)
    for field in RECORD_SCHEMA:
        column = table.column(field.name)
        if field.name in ("key", "input_hash") and column.null_count:
            message = f"journal records: {column.null_count} rows without {field.name}"
            raise ValueError(message)
        if column.type != field.type:
            index = table.schema.get_field_index(field.name)
            table = table.set_column(index, field, column.cast(field.type))
    payload = [name for name in table.schema.names if name not in RECORD_SCHEMA.names]
    # Metadata (pandas', say) would make two equal tables differ.
    return table.select([*RECORD_SCHEMA.names, *payload]).replace_schema_metadata(None)


def _select(schema: pa.Schema) -> pa.Schema:
    present = [schema.field(name) for name in RECORD_SCHEMA.names if name in schema.names]
    return pa.schema(present)


def _index(schema: pa.Schema, name: str) -> int:
    index: int = schema.get_field_index(name)
    if index < 0:
        message = f"journal records have no column {name!r}; they have {schema.names}"
        raise KeyError(message)
    return index


def _digest(prefix: str, body: pa.Buffer | memoryview) -> bytes:
    digest = hashlib.blake2b(prefix.encode() + b"\0", digest_size=32)
    digest.update(body)
    return digest.digest()
