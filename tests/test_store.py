from __future__ import annotations

import datetime as dt
import os
import pickle
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from overnight import store as store_module
from overnight.errors import ConfigError, StoreError
from overnight.store import Store, StoreConfig
from tests.moto_server import REGION, SECRET, moto_server, new_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return StoreConfig((tmp_path).as_uri()).open()
    return new_bucket(request.getfixturevalue("endpoint")).open()


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return StoreConfig(tmp_path.as_uri()).open()


def test_what_is_put_can_be_got_streamed_and_described(store: Store) -> None:
    data = os.urandom(300_000)
    version = store.put("a/b/c.bin", memoryview(data))
    assert store.get("a/b/c.bin") == data
    chunks = list(store.stream("a/b/c.bin", chunk_bytes=100_000))
    assert b"".join(chunks) == data
    entry = store.head("a/b/c.bin")
    assert (entry.key, entry.size, entry.version) == ("a/b/c.bin", len(data), version)
    assert entry.modified.utcoffset() == dt.timedelta(0)
    assert list(store.list("a")) == [entry]


def test_replacing_changes_content_and_version(store: Store) -> None:
    first = store.put("key", b"first")
    second = store.put("key", b"second!")
    assert store.get("key") == b"second!"
    assert first != second
    assert store.head("key").version == second


def test_create_refuses_to_replace(store: Store) -> None:
    store.put("key", b"first", create=True)
    with pytest.raises(FileExistsError, match="key already exists"):
        store.put("key", b"second", create=True)
    assert store.get("key") == b"first"


def test_of_many_that_create_one_key_at_once_one_wins(store: Store) -> None:
    start = threading.Barrier(8)
    won = []

    def create(number: int) -> None:
        start.wait()
        try:
            store.put("lock", str(number).encode(), create=True)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in won] == [store.get("lock")]


@pytest.mark.parametrize("read", ["get", "head", "stream"])
def test_a_missing_key_is_a_file_not_found_error_that_names_it(store: Store, read: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no/such\.key does not exist"):
        list(getattr(store, read)("no/such.key"))


def test_list_is_recursive_sorted_and_takes_a_prefix_as_a_folder(store: Store) -> None:
    keys = ["a/z", "a/b/c", "a-b/x", "ab/x", "a/B", "ä/ö 100%41 ~+&=?.txt"]
    for key in keys:
        store.put(key, b"")
    assert [entry.key for entry in store.list("a")] == ["a/B", "a/b/c", "a/z"]
    assert [entry.key for entry in store.list("a/b/")] == ["a/b/c"]
    assert [entry.key for entry in store.list()] == sorted(keys)
    assert list(store.list("nothing/here")) == []
    assert store.get("ä/ö 100%41 ~+&=?.txt") == b""


def test_deleting_what_is_gone_already_is_fine(store: Store) -> None:
    for key in ("a/1", "a/2", "a/3"):
        store.put(key, b"x")
    store.delete(["a/1", "a/none", "a/3"])
    store.delete([])
    store.delete(["a/1"])
    assert [entry.key for entry in store.list("a")] == ["a/2"]


def test_upload_copies_a_file_of_several_parts(store: Store, tmp_path_factory: object) -> None:
    assert isinstance(tmp_path_factory, pytest.TempPathFactory)
    source = tmp_path_factory.mktemp("upload") / "big"
    source.write_bytes(os.urandom(12 << 20))
    version = store.upload("models/big", source)
    assert store.get("models/big") == source.read_bytes()
    assert store.head("models/big").version == version


def test_thousands_of_files_are_listed(local: Store, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(5000):
        (tmp_path / "many" / f"{number:05d}").touch()
    keys = [entry.key for entry in local.list("many")]
    assert keys == [f"many/{number:05d}" for number in range(5000)]


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a\0b", "a#1"])
def test_a_key_that_leaves_the_store_or_hides_in_it_is_refused(local: Store, key: str) -> None:
    with pytest.raises(ConfigError, match="store key"):
        local.put(key, b"")
    with pytest.raises(ConfigError, match="store key"):
        local.get(key)


@pytest.mark.parametrize(
    "url", ["/data/x", "file://host/x", "file:relative", "s3:///x", "http://x", "file:///a?b", ""]
)
def test_a_url_that_is_no_store_is_refused_with_what_to_use(url: str) -> None:
    with pytest.raises(ConfigError, match=r"file:///absolute|percent-encoded"):
        StoreConfig(url)


def test_credentials_in_a_url_are_refused_without_repeating_them() -> None:
    with pytest.raises(ConfigError, match="credentials do not belong") as caught:
        StoreConfig("s3://bucket/x", endpoint_url=f"http://user:{SECRET}@host")
    assert SECRET not in str(caught.value)


def test_a_config_can_be_pickled_and_holds_no_secret(endpoint: str) -> None:
    config = new_bucket(endpoint)
    config.open().put("key", b"x")
    pickled = pickle.dumps(config)
    assert SECRET.encode() not in pickled
    assert pickle.loads(pickled).open().get("key") == b"x"


def test_a_percent_encoded_directory_is_found(tmp_path: Path) -> None:
    odd = tmp_path / "with space #1 100%"
    odd.mkdir()
    StoreConfig(odd.as_uri()).open().put("a", b"x")
    assert (odd / "a").read_bytes() == b"x"


def test_a_missing_directory_says_what_to_do(tmp_path: Path) -> None:
    config = StoreConfig((tmp_path / "missing").as_uri())
    with pytest.raises(StoreError, match=r"file:///.*missing: there is no such directory; create"):
        config.open()


def test_a_directory_that_disappears_is_not_created_again(local: Store, tmp_path: Path) -> None:
    tmp_path.rename(tmp_path.with_name("away"))
    with pytest.raises(StoreError, match="is the store still there"):
        local.put("a/b", b"x")
    assert not tmp_path.exists()


def test_a_write_that_cannot_be_done_is_a_store_error_and_leaves_nothing(
    local: Store, tmp_path: Path
) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(StoreError, match=r"cannot put .*/a/b: .*Not a directory") as caught:
        local.put("a/b", b"x")
    assert caught.value.retryable
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_unfinished_files_are_never_listed(local: Store, tmp_path: Path) -> None:
    local.put("a/whole", b"x")
    (tmp_path / "a" / "torn#123").write_bytes(b"x")
    assert [entry.key for entry in local.list()] == ["a/whole"]


def test_sweeping_removes_old_unfinished_files_only(store: Store, tmp_path: Path) -> None:
    store.put("a/b/whole", b"x")
    torn = tmp_path / "a" / "b" / "torn#123"
    torn.parent.mkdir(parents=True, exist_ok=True)
    torn.write_bytes(b"x")
    now = dt.datetime.now(tz=dt.UTC)
    hour = dt.timedelta(hours=1)
    assert store.sweep("a", older_than=now - hour) == 0
    swept = store.sweep("a", older_than=now + hour)
    assert swept == (0 if store.url.startswith("s3") else 1)
    assert store.sweep("none", older_than=now + hour) == 0
    assert [entry.key for entry in store.list()] == ["a/b/whole"]


def test_a_local_write_is_synced_before_it_gets_its_name_and_the_name_after(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    seen = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        is_directory = Path(f"/proc/self/fd/{descriptor}").is_dir()
        seen.append(("directory" if is_directory else "file", (tmp_path / "a" / "b").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    local.put("a/b", b"x")
    assert seen == [("file", False), ("directory", True)]


@pytest.mark.parametrize("action", ["get", "put", "list"])
def test_a_missing_bucket_says_so_and_what_to_do(endpoint: str, action: str) -> None:
    store = StoreConfig("s3://no-such-bucket/x", endpoint_url=endpoint, region=REGION).open()
    arguments = {"get": ("k",), "put": ("k", b""), "list": ("k",)}[action]
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/x.*no such bucket; create it"):
        list(getattr(store, action)(*arguments))


@pytest.mark.usefixtures("endpoint")
def test_an_unreachable_server_is_a_store_error_without_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "_RETRIES", 1)
    store = StoreConfig("s3://bucket/x", endpoint_url="http://127.0.0.1:9", region=REGION).open()
    with pytest.raises(StoreError, match="cannot put s3://bucket/x/key") as caught:
        store.put("key", b"x")
    assert caught.value.retryable
    assert SECRET not in str(caught.value)


def test_no_credentials_at_all_says_where_to_put_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match="no AWS credentials found; set AWS_PROFILE"):
        StoreConfig("s3://bucket").open()
