"""One partition's whole way, with a real store, Ray and PostgreSQL and a tiny real engine."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa

from overnight.engines.trivial import TrivialReverse
from overnight.errors import (
    AuditFailedError,
    ConfigError,
    NotLandedError,
    PartitionBusyError,
    TooManyRejectsError,
)
from overnight.job import OutputCheck, each_result
from overnight.lineage import repairs
from overnight.plan import MaxRejects
from overnight.run import run_partition
from tests.moto_server import moto_server, new_bucket
from tests.support import shop
from tests.support.shop import DAY, Paced, PacedEngine, line, reversing, write_lines
from tests.warehouse.helpers import forget_lineage

if TYPE_CHECKING:
    import pyarrow as pa

    from overnight.report import PartitionReport
    from overnight.warehouse.connect import Warehouse

pytestmark = pytest.mark.usefixtures("ray_head")


@pytest.fixture(autouse=True)
def fresh_table(warehouse: Warehouse) -> None:
    with warehouse.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS published.reversed_lines")
        forget_lineage(connection)


def run(warehouse: Warehouse, home: Path, run_id: str = "run-1", **changes: Any) -> PartitionReport:
    job = reversing(**changes)
    return run_partition(job, DAY, run_id=run_id, house=shop.house(warehouse, home))


def rows(warehouse: Warehouse, query: str) -> list[Any]:
    with warehouse.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


def published(warehouse: Warehouse) -> dict[str, str]:
    return dict(rows(warehouse, "SELECT line_id, reversed FROM published.reversed_lines"))


def logged(path: Path) -> list[str]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def test_every_row_is_accounted_for(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, [*map(line, range(200)), "{broken", line(500, "why?"), line(501, "!fail no")])
    report = run(warehouse, home)
    assert (report.rows_in, report.rejected, report.published, report.dead_lettered) == (
        203, 1, 200, 2,
    )  # fmt: skip
    assert published(warehouse) == {f"l{n}": f"line number {n}"[::-1] for n in range(200)}
    reasons = dict(rows(warehouse, "SELECT key, reason FROM lineage.current_dead_letters"))
    assert reasons == {"l500": "parse: a question has no answer", "l501": "told: no"}
    reject = rows(warehouse, "SELECT file, line, reason FROM lineage.current_rejects")
    assert [(line_, "lines.jsonl" in file) for file, line_, _ in reject] == [(201, True)]


def test_a_published_row_leads_to_its_run_machine_model_and_input_line(
    warehouse: Warehouse, home: Path
) -> None:
    write_lines(home, map(line, range(3)))
    run(warehouse, home, run_id="the-run")
    found = rows(
        warehouse,
        "SELECT t._run_id, t._line, a.machine, f.engine, i.uri, i.digest "
        "FROM published.reversed_lines t JOIN lineage.attempts a ON a.attempt = t._attempt "
        "JOIN lineage.fingerprints f USING (fingerprint) "
        "JOIN lineage.partitions p ON p.job = a.job AND p.partition_key = t.partition_key "
        "JOIN lineage.inputs i ON i.attempt = p.published_attempt AND i.input_id = t._input_id "
        "WHERE t.line_id = 'l2'",
    )
    ((run_id, number, machine, engine, uri, digest),) = found
    assert (run_id, number, engine) == ("the-run", 3, "trivial.reverse")
    assert machine
    assert uri.endswith("lines.jsonl")
    assert digest.startswith("sha256:")


def test_an_unchanged_partition_infers_nothing_and_starts_no_engine(
    warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(home, [*map(line, range(50)), line(51, "!fail told")])
    first = run(warehouse, home)

    def refuse(_: object) -> None:
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr("overnight.workers.pool.connected", refuse)
    second = run(warehouse, home)
    assert (first.inferred, second.inferred, second.reused) == (51, 0, 51)
    assert second.dead_lettered == 1
    assert second.data_version == first.data_version
    assert len(published(warehouse)) == 50


def test_three_changed_rows_are_the_only_ones_inferred(warehouse: Warehouse, home: Path) -> None:
    log = home / "inferred"
    engine = Paced(window=64, batch=16, log=str(log))
    write_lines(home, map(line, range(100)))
    run(warehouse, home, engine=engine)
    log.unlink()
    changed = {7, 42, 99}
    write_lines(home, [line(n, f"changed {n}" if n in changed else None) for n in range(100)])
    # The log's name is no part of an engine's identity.
    report = run(warehouse, home, engine=Paced(window=64, batch=16, log=str(home / "second")))
    assert report.inferred == 3
    assert sorted(logged(home / "second")) == sorted(f"changed {n}"[::-1] for n in changed)
    assert published(warehouse)["l42"] == "changed 42"[::-1]


def test_a_row_that_is_gone_from_the_input_is_gone_from_the_table(
    warehouse: Warehouse, home: Path
) -> None:
    write_lines(home, map(line, range(10)))
    run(warehouse, home)
    write_lines(home, map(line, range(5)))
    report = run(warehouse, home)
    assert (report.inferred, report.published) == (0, 5)
    assert set(published(warehouse)) == {f"l{n}" for n in range(5)}


def test_another_parse_is_applied_without_inferring(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, map(line, range(10)))
    run(warehouse, home)

    @each_result
    def loud(result: dict[str, Any]) -> dict[str, Any]:
        return {"reversed": result["text"].upper()}

    report = run(warehouse, home, parse=loud)
    assert report.inferred == 0
    assert published(warehouse)["l3"] == "3 REBMUN ENIL"


def test_another_engine_infers_everything_again(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, map(line, range(10)))
    run(warehouse, home)

    report = run(warehouse, home, version="2")
    assert report.inferred == 10


def test_a_partition_without_rows_publishes_an_empty_partition(
    warehouse: Warehouse, home: Path
) -> None:
    write_lines(home, map(line, range(10)))
    run(warehouse, home)
    write_lines(home, []).unlink()
    write_lines(home, [], name="_SUCCESS")
    report = run(warehouse, home)
    assert (report.rows_in, report.published) == (0, 0)
    assert published(warehouse) == {}


def test_a_failed_check_publishes_nothing(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, map(line, range(10)))
    run(warehouse, home)
    write_lines(home, [line(n, f"new {n}") for n in range(10)])
    strict = OutputCheck(
        name="short_share", description="Short.", breaks=lambda row: row.length > 1, max_share=0.0
    )
    with pytest.raises(AuditFailedError, match="short_share: 10 of 10 rows"):
        run(warehouse, home, checks=(strict,))
    assert published(warehouse)["l3"] == "3 rebmun enil"
    assert rows(warehouse, "SELECT outcome FROM lineage.attempts ORDER BY attempt")[-1] == (
        "failed",
    )


def test_too_many_dead_letters_publish_nothing(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, [line(n, "why?") for n in range(10)])
    with pytest.raises(AuditFailedError, match="dead_letter_share"):
        run(warehouse, home)


def test_too_many_rejects_stop_before_an_engine_is_asked_for(
    warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(home, [*map(line, range(10)), *["{broken"] * 5])
    monkeypatch.setattr("overnight.workers.pool.connected", lambda _: pytest.fail("asked"))
    with pytest.raises(TooManyRejectsError, match="5 of 15"):
        run(warehouse, home, max_rejects=MaxRejects(share=0.2))
    kept = rows(warehouse, "SELECT line FROM lineage.current_rejects ORDER BY line")
    assert [number for (number,) in kept] == [11, 12, 13, 14, 15]


@pytest.mark.parametrize("partition", ["../x", "2026-11-31", "", "today", "2026-11-20\0"])
def test_a_partition_that_is_no_date_is_refused(
    warehouse: Warehouse, home: Path, partition: str
) -> None:
    with pytest.raises(ConfigError, match="partition"):
        run_partition(reversing(), partition, run_id="r", house=shop.house(warehouse, home))


def test_a_partition_that_has_not_landed_says_where_it_was_looked_for(
    warehouse: Warehouse, home: Path
) -> None:
    with pytest.raises(NotLandedError, match=f"landing/lines/{DAY}"):
        run(warehouse, home)


def test_a_second_run_of_the_same_partition_is_refused(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, map(line, range(10)))
    refused: list[str] = []

    class Meddling(TrivialReverse):
        """While the first run infers, a second one is tried."""

    def second(_: object) -> None:
        if refused:
            return
        with pytest.raises(PartitionBusyError) as caught:
            run(warehouse, home, run_id="second")
        refused.append(str(caught.value))

    run_partition(
        reversing(), DAY, run_id="first", house=shop.house(warehouse, home), report=second
    )
    assert len(refused) == 1
    assert "run first" in refused[0]
    assert len(published(warehouse)) == 10


def test_values_full_of_quotes_semicolons_and_newlines_arrive_as_they_are(
    warehouse: Warehouse, home: Path
) -> None:
    nasty = "'; DROP TABLE published.reversed_lines; --\"\\\n\t\\N$$"
    write_lines(home, [line(1, nasty)])
    run(warehouse, home)
    assert published(warehouse) == {"l1": nasty[::-1]}


def test_a_nul_byte_is_a_reject_with_its_place(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, [*map(line, range(30)), line(99, "a\0b")])
    report = run(warehouse, home)
    assert (report.published, report.rejected) == (30, 1)
    ((column, number, reason),) = rows(
        warehouse, 'SELECT "column", line, reason FROM lineage.current_rejects'
    )
    assert (column, number) == ("text", 31)
    assert "NUL" in reason


def test_a_row_that_kills_the_engine_is_the_only_one_lost(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, [line(n, "!die" if n == 77 else None) for n in range(120)])
    report = run(warehouse, home)
    assert (report.published, report.dead_lettered) == (119, 1)
    ((key, reason),) = rows(warehouse, "SELECT key, reason FROM lineage.current_dead_letters")
    assert key == "l77"
    assert "killed" in reason


def test_an_old_journal_is_collected_and_its_rows_are_still_reused(
    warehouse: Warehouse, home: Path
) -> None:
    write_lines(home, map(line, range(20)))
    job = reversing()
    house = replace(shop.house(warehouse, home), journal_retention=dt.timedelta(seconds=-60))
    run_partition(job, DAY, run_id="one", house=house)
    assert not list((home / "store" / "journal").rglob("*.arrow"))
    second = run_partition(job, DAY, run_id="two", house=house)
    assert (second.inferred, second.reused) == (0, 20)


def test_the_store_may_be_in_s3(warehouse: Warehouse, home: Path) -> None:
    with moto_server() as endpoint:
        config = new_bucket(endpoint)
        text = "".join(json.dumps(line(n)) + "\n" for n in range(100))
        store = config.open()
        store.put(f"landing/lines/{DAY}/lines.jsonl", text.encode())
        house = replace(shop.house(warehouse, home), store=config)
        first = run_partition(reversing(), DAY, run_id="one", house=house)
        assert (first.published, first.inferred) == (100, 100)
        assert any(entry.key.startswith("journal/") for entry in store.list("journal"))
        again = run_partition(reversing(), DAY, run_id="two", house=house)
        assert again.inferred == 0


def dead_letters(warehouse: Warehouse) -> pl.DataFrame:
    with warehouse.connect() as connection:
        query = sa.text(
            "SELECT partition_key, key, input_hash, inferred_attempt, reason, dropped_at "
            "FROM lineage.current_dead_letters ORDER BY key"
        )
        return pl.DataFrame(
            [dict(row) for row in connection.execute(query).mappings()], infer_schema_length=None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Excused(Paced):
    """An engine that fails on fewer rows once it has been repaired.

    Attributes:
        repaired: a file; when it is there, rows that failed before do not.
    """

    repaired: str

    def start(self) -> ExcusedEngine:
        return ExcusedEngine(self)


class ExcusedEngine(PacedEngine):
    def __init__(self, spec: Excused) -> None:
        super().__init__(spec)
        self._repaired = Path(spec.repaired)

    def step(self) -> pa.Table:
        done = super().step()
        if not self._repaired.exists():
            return done
        whole = pc.if_else(pc.equal(done["failure"], "told: soon"), None, done["failure"])
        text = pc.fill_null(done["text"], "noos")
        done = done.set_column(done.column_names.index("failure"), "failure", whole)
        length = pc.utf8_length(text).cast(done.schema.field("length").type)
        for name, column in (("text", text), ("length", length)):
            done = done.set_column(done.column_names.index(name), name, column)
        return done


def test_dead_letters_that_are_to_be_tried_again_are_the_only_rows_inferred(
    warehouse: Warehouse, home: Path
) -> None:
    log = home / "inferred"
    engine = Excused(window=64, batch=16, log=str(log), repaired=str(home / "repaired"))
    texts = {200: "!fail soon", 201: "!fail soon", 202: "!fail for ever", 203: "why?"}
    write_lines(home, [*map(line, range(100)), *(line(n, text) for n, text in texts.items())])
    first = run(warehouse, home, engine=engine)
    assert (first.inferred, first.dead_lettered) == (104, 4)
    (home / "repaired").touch()
    log.unlink()
    assert run(warehouse, home, engine=engine).inferred == 0, "nobody has asked for them"
    dead = dead_letters(warehouse)
    asked = dead.filter(pl.col("key").is_in(["l200", "l202", "l203"]))
    repairs.decide(warehouse, "retry", job="reversed_lines", dead_letters=asked)
    again = run(warehouse, home, engine=engine, run_id="run-2")
    assert (again.inferred, again.reused, again.dead_lettered, again.published) == (3, 101, 3, 101)
    assert len(published(warehouse)) == 101
    left = dead_letters(warehouse)
    assert left["key"].to_list() == ["l201", "l202", "l203"]
    tried = dict(zip(left["key"], left["inferred_attempt"], strict=True))
    assert tried["l202"] == tried["l203"] == again.attempt, "what fails again is a new dead letter"
    assert tried["l201"] == first.attempt
    assert run(warehouse, home, engine=engine).inferred == 0, "a decision holds once"


def test_a_retry_survives_the_end_of_the_journal(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, [*map(line, range(20)), line(21, "!fail told")])
    run(warehouse, home)
    shutil.rmtree(home / "store" / "journal")
    repairs.decide(warehouse, "retry", job="reversed_lines", dead_letters=dead_letters(warehouse))
    again = run(warehouse, home)
    assert (again.inferred, again.reused, again.dead_lettered) == (1, 20, 1)


def test_a_dropped_dead_letter_is_accounted_for_and_no_longer_held_against_the_partition(
    warehouse: Warehouse, home: Path
) -> None:
    write_lines(home, [*map(line, range(10)), line(11, "!fail told")])
    run(warehouse, home, max_dead_letter_share=0.5)
    dropped = dead_letters(warehouse)
    repairs.decide(
        warehouse, "drop", job="reversed_lines", dead_letters=dropped, reason="not a line"
    )
    assert dead_letters(warehouse)["dropped_at"].is_not_null().all()
    strict = run(warehouse, home, max_dead_letter_share=0.0)
    assert (strict.rows_in, strict.published, strict.dead_lettered) == (11, 10, 1)
    (share,) = (check for check in strict.audit.checks if check.name == "dead_letter_share")
    assert "0 of 11 rows" in share.message
    assert "1 that were dropped" in share.message
    # Another row's failure is nobody's decision.
    write_lines(home, [*map(line, range(10)), line(11, "!fail told"), line(12, "!fail too")])
    with pytest.raises(AuditFailedError, match="dead_letter_share"):
        run(warehouse, home, max_dead_letter_share=0.0)
