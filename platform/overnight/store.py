"""Where bytes live: a local directory or a bucket, behind one small interface.

Here: keys, atomic and durable writes, bounded retries, errors that name the store and what to
do. Not here: what the bytes mean (landing files, journal shards, models), and credentials,
which come from the environment (boto3's chain) and never pass through a configuration.

`obstore` does the work, except for one thing: it renames a local file into place without
an fsync, so after a power cut a name could stand for nothing. Local writes are therefore done
here, with obstore's own convention for unfinished files (`name#123`), which it never lists.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from overnight.crashpoints import reach, register
from overnight.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator

    from obstore import ObjectMeta, PutMode

# Above this a write to a bucket goes in parts, so that one lost packet does not repeat it all.
_SINGLE_PUT_BYTES = 64 << 20
_RETRIES = 5
_RETRY_TIMEOUT = timedelta(seconds=60)
_REQUEST_TIMEOUT = timedelta(minutes=5)
_CONNECT_TIMEOUT = timedelta(seconds=10)
# Role credentials are renewed by botocore ten minutes or more before they expire; asking again
# every five never uses a stale one.
_CREDENTIALS_TTL = timedelta(minutes=5)

_UNFINISHED = re.compile(r".+#\d+", re.DOTALL)

register("store.before_rename", "store.after_rename")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object: `size` in bytes, `version` changes with the content, `modified` in UTC."""

    key: str
    size: int
    version: str
    modified: dt.datetime


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where a store is: picklable, and free of secrets.

    Attributes:
        url: `file:///absolute/directory` (percent-encoded, as `Path.as_uri` writes it)
            or `s3://bucket/prefix`.
        endpoint_url: The server of an S3-compatible store; none for AWS.
        region: The bucket's region; none for the environment's.

    Raises:
        ConfigError: if the URL or the endpoint cannot be used.
    """

    url: str
    endpoint_url: str | None = None
    region: str | None = None

    def __post_init__(self) -> None:
        """Refuse what `open` could not open."""
        parts = _split(self.url, "url")
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
                message = f"store url {self.url!r}: a local store is file:///absolute/directory"
                raise ConfigError(message)
        elif parts.scheme != "s3" or not parts.netloc:
            message = (
                f"store url {self.url!r}: use file:///absolute/directory or s3://bucket/prefix"
            )
            raise ConfigError(message)
        if self.endpoint_url is not None:
            endpoint = _split(self.endpoint_url, "endpoint_url")
            if endpoint.scheme not in ("http", "https") or not endpoint.netloc:
                message = f"store endpoint_url {self.endpoint_url!r}: use http(s)://host[:port]"
                raise ConfigError(message)

    def open(self) -> Store:
        """The store; nothing is created, and a bucket is not contacted yet.

        Raises:
            StoreError: if the directory is missing, or no AWS credentials are found.
        """
        return Store(self)


def _split(url: str, what: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        message = f"store {what} is not a URL: {error}"
        raise ConfigError(message) from None
    if parts.username is not None or parts.password is not None:
        # The value itself stays out of the message: it may hold a password.
        message = f"store {what}: credentials do not belong in a URL; put them in the environment"
        raise ConfigError(message)
    if parts.query or parts.fragment:
        message = f"store {what} {url!r}: '?' and '#' must be percent-encoded"
        raise ConfigError(message)
    return parts


class Store:
    """Objects under one URL. Thread-safe; not picklable (pass its `StoreConfig`).

    Keys are relative, '/'-separated names; any other raises ConfigError. Whatever the store
    refuses or fails to do within the bounded retries raises StoreError.
    """

    def __init__(self, config: StoreConfig) -> None:
        """Open the store; see `StoreConfig.open`."""
        self.config = config
        self.url = config.url.rstrip("/")
        parts = urlsplit(config.url)
        self._root: Path | None = None
        self._objects: LocalStore | S3Store
        if parts.scheme == "file":
            self._root = Path(unquote(parts.path))
            if not self._root.is_dir():
                self._fail("open", "", "there is no such directory; create it, or mount the disk")
            self._objects = LocalStore(self._root)
        else:
            self._objects = self._bucket(parts.netloc, parts.path.strip("/"))

    def put(self, key: str, data: bytes | memoryview, *, create: bool = False) -> str:
        """Write an object atomically; on return it is durable. Returns its version.

        Args:
            key: Its name.
            data: Its content.
            create: Refuse to replace. On a bucket a retried request whose first answer was
                lost may find its own object: whoever needs to know compares the content.

        Raises:
            FileExistsError: if `create` and the key exists.
        """
        _check(key)
        if self._root is not None:
            return self._put_local(self._root, key, lambda out: out.write(data), create=create)
        mode: PutMode = "create" if create else "overwrite"
        # A conditional write must be one request.
        multipart = len(data) > _SINGLE_PUT_BYTES and not create
        with self._errors("put", key):
            result = obstore.put(self._objects, key, data, mode=mode, use_multipart=multipart)
            return _version(result["e_tag"])

    def upload(self, key: str, path: Path) -> str:
        """Copy a local file into the store: streamed, atomic, durable. Returns its version."""
        _check(key)
        if self._root is not None:
            with path.open("rb") as source:
                return self._put_local(
                    self._root, key, lambda out: shutil.copyfileobj(source, out, 1 << 20)
                )
        with self._errors("put", key):
            return _version(obstore.put(self._objects, key, path)["e_tag"])

    def get(self, key: str) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: if it is missing.
        """
        _check(key)
        with self._errors("get", key):
            return bytes(obstore.get(self._objects, key).bytes())

    def stream(self, key: str, chunk_bytes: int = 8 << 20) -> Iterator[bytes]:
        """The object in chunks of about `chunk_bytes`.

        Raises:
            FileNotFoundError: if it is missing (when the first chunk is asked for).
        """
        _check(key)
        with self._errors("get", key):
            for chunk in obstore.get(self._objects, key).stream(min_chunk_size=chunk_bytes):
                yield bytes(chunk)

    def head(self, key: str) -> Entry:
        """What is known of an object without reading it.

        Raises:
            FileNotFoundError: if it is missing.
        """
        _check(key)
        with self._errors("head", key):
            return _entry(obstore.head(self._objects, key))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below a folder, at any depth, sorted by key; an absent folder is empty."""
        prefix = prefix.rstrip("/")
        if prefix:
            _check(prefix)
        entries: list[Entry] = []
        with self._errors("list", prefix):
            for chunk in obstore.list(self._objects, prefix or None, chunk_size=1000):
                entries += map(_entry, chunk)
        entries.sort(key=lambda entry: entry.key)
        yield from entries

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names of the folders directly below a folder, sorted; an absent folder has none.

        What is in them is not listed.
        """
        _check(prefix)
        with self._errors("list", prefix):
            found = obstore.list_with_delimiter(self._objects, prefix)["common_prefixes"]
        return tuple(sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in found))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is already gone is fine."""
        names = list(keys)
        for key in names:
            _check(key)
        if self._root is not None:
            for key in names:
                with self._errors("delete", key):
                    (self._root / key).unlink(missing_ok=True)
        elif names:
            with self._errors("delete", names[0]), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._objects, names)

    def sweep(self, prefix: str, *, older_than: dt.datetime) -> int:
        """Remove what killed writers left unfinished below a folder; returns how many files.

        Only a directory keeps such files. A bucket keeps the parts of unfinished uploads out
        of sight: give it a lifecycle rule that aborts incomplete multipart uploads.
        """
        _check(prefix)
        if self._root is None:
            return 0
        removed = 0
        with self._errors("sweep", prefix):
            for path in (self._root / prefix).rglob("*#*"):
                if _UNFINISHED.fullmatch(path.name) and _modified(path) < older_than.timestamp():
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _put_local(
        self, root: Path, key: str, write: Callable[[IO[bytes]], object], *, create: bool = False
    ) -> str:
        target = root / key
        # The ending is what obstore skips in listings: nobody sees an unfinished file.
        unfinished = target.with_name(f"{target.name}#{secrets.randbits(62)}")
        with self._errors("put", key):
            try:
                with _open_new(unfinished, root) as out:
                    write(out)
                    out.flush()
                    os.fsync(out.fileno())
                reach("store.before_rename")
                if create:
                    os.link(unfinished, target)
                else:
                    unfinished.rename(target)
            finally:
                unfinished.unlink(missing_ok=True)
            reach("store.after_rename")
            _sync_directory(target.parent)
            return _version(obstore.head(self._objects, key)["e_tag"])

    def _bucket(self, bucket: str, prefix: str) -> S3Store:
        # boto3 takes a third of a second to import, and only buckets need it.
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider

        try:
            provider = Boto3CredentialProvider(ttl=_CREDENTIALS_TTL)
        except (ValueError, BotoCoreError):
            self._fail(
                "open",
                "",
                "no AWS credentials found; set AWS_PROFILE or AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or give the machine a role",
            )
        endpoint = self.config.endpoint_url
        region = self.config.region or provider.config.get("region")
        return S3Store(
            bucket,
            prefix=prefix or None,
            config={
                **({"endpoint": endpoint} if endpoint else {}),
                **({"region": region} if region else {}),
            },
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http://"),
                "connect_timeout": _CONNECT_TIMEOUT,
                "timeout": _REQUEST_TIMEOUT,
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_TIMEOUT},
            credential_provider=provider,
        )

    @contextlib.contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        """Turn what a library or the system raises into the errors that this class promises."""
        try:
            yield
        except (AlreadyExistsError, FileExistsError):
            message = f"{self.url}/{key} already exists"
            raise FileExistsError(message) from None
        except FileNotFoundError as error:
            self._fail_without_bucket(action, key, error)
            if action in ("get", "head"):
                message = f"{self.url}/{key} does not exist"
                raise FileNotFoundError(message) from None
            self._fail(action, key, f"{_first_line(error)}; is the store still there?")
        except (BaseError, OSError) as error:
            self._fail_without_bucket(action, key, error)
            self._fail(action, key, _first_line(error), retryable=True)

    def _fail_without_bucket(self, action: str, key: str, error: Exception) -> None:
        if "<Code>NoSuchBucket</Code>" in str(error):
            self._fail(action, key, "there is no such bucket; create it, or correct the URL")

    def _fail(self, action: str, key: str, reason: str, *, retryable: bool = False) -> NoReturn:
        where = f"{self.url}/{key}" if key else self.url
        error = StoreError(f"cannot {action} {where}: {reason}")
        error.retryable = retryable
        raise error from None


def _check(key: str) -> None:
    parts = key.split("/")
    if "\0" in key or any(part in ("", ".", "..") for part in parts):
        message = f"store key {key!r}: use a relative name like 'a/b', without empty parts or '..'"
        raise ConfigError(message)
    if _UNFINISHED.fullmatch(parts[-1]):
        message = f"store key {key!r}: names that end in '#<number>' are kept for unfinished files"
        raise ConfigError(message)


def _entry(meta: ObjectMeta) -> Entry:
    version = _version(meta["e_tag"])
    return Entry(meta["path"], meta["size"], version, meta["last_modified"])


def _version(e_tag: str | None) -> str:
    """An etag; for a local file obstore makes one of inode, modification time and size."""
    return (e_tag or "").strip('"')


def _first_line(error: BaseException) -> str:
    # What follows in obstore's messages is the server's XML, or a dump of obstore's internals.
    return (
        str(error).split("\n", 1)[0].removesuffix(': <?xml version="1.0" encoding="utf-8"?>')[:300]
    )


def _open_new(path: Path, root: Path) -> IO[bytes]:
    try:
        return path.open("xb")
    except FileNotFoundError:
        _make_directories(path.parent, root)
        return path.open("xb")


def _make_directories(directory: Path, root: Path) -> None:
    """Create what is missing below `root`, durably; a missing root stays an error."""
    missing = []
    while directory != root and not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        _sync_directory(folder.parent)


def _modified(path: Path) -> float:
    """When a file was written last; never, if it has got its name meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
