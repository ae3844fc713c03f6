"""Physical lines of a byte stream, numbered and of bounded length.

Lines end at a line feed and nowhere else: a carriage return or U+2028 inside a value is data.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 256


@dataclass(frozen=True, slots=True)
class TooLong:
    """Stands for a line that was not kept: its first bytes, its size, and its quotes."""

    head: bytes
    size: int
    quotes: int


def numbered_lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | TooLong]]:
    """Split a stream into 1-based numbered lines, without their line feeds.

    Args:
        stream: what to read; a UTF-8 byte order mark at its start is dropped.
        max_bytes: the longest line to keep; a longer one comes as `TooLong`.
    """
    for number, line in enumerate(_lines(stream, max_bytes), start=1):
        if number == 1 and isinstance(line, bytes):
            yield number, line.removeprefix(codecs.BOM_UTF8)
        else:
            yield number, line


def _lines(stream: BinaryIO, max_bytes: int) -> Iterator[bytes | TooLong]:
    tail = _Tail(max_bytes)
    while chunk := stream.read(_CHUNK_BYTES):
        first, *rest = chunk.split(b"\n")
        tail.add(first)
        if not rest:
            continue
        yield tail.take()
        last = rest.pop()
        for line in rest:
            yield (
                line
                if len(line) <= max_bytes
                else TooLong(line[:_HEAD_BYTES], len(line), line.count(b'"'))
            )
        tail.add(last)
    if tail.size:
        yield tail.take()


class _Tail:
    """The beginning of a line whose end has not been read yet."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self._quotes = 0
        self._parts: list[bytes] = []
        self._head = b""

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size <= self.max_bytes:
            self._parts.append(part)
            return
        if self._parts:
            kept = b"".join(self._parts)
            self._head = kept[:_HEAD_BYTES]
            self._quotes += kept.count(b'"')
            self._parts = []
        self._head = (self._head + part)[:_HEAD_BYTES]
        self._quotes += part.count(b'"')

    def take(self) -> bytes | TooLong:
        line: bytes | TooLong
        if self.size <= self.max_bytes:
            line = b"".join(self._parts)
        else:
            line = TooLong(self._head, self.size, self._quotes)
        self.__init__(self.max_bytes)  # type: ignore[misc]
        return line
