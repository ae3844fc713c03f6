"""An installation to break: its own warehouse and store, step processes, and what kills them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import sqlalchemy as sa

from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.chaos.engine import Log
from tests.support import shop
from tests.support.processes import command
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.chaos.engine import Event

ROOT = Path(__file__).parents[2]
ROWS = 320
DEAD = ("l1000", "l1001")
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Landed:
    """What has landed for a partition, by what should become of it."""

    expected: dict[str, str]
    dead: tuple[str, ...] = DEAD


class Step:
    """A step process; `output` is all that it said."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process = process
        self._said = said

    @property
    def output(self) -> str:
        return self._said.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(timeout=PATIENCE_S)


class Lab:
    """One installation; close it by leaving `open_lab`."""

    def __init__(self, home: Path, warehouse: Warehouse) -> None:
        self.home = home
        self.warehouse = warehouse
        self.log = home / "inferred.jsonl"
        self._steps: list[Step] = []

    @property
    def journal(self) -> Path:
        return self.home / "store" / "journal" / "reversed_lines"

    def land(self, day: str, version: str) -> Landed:
        """Land every row with a text that names the partition, the version and the row.

        Two rows cannot be inferred, and one line breaks the input contract.
        """
        texts = {f"l{n}": f"{day} {version} {n}" for n in range(ROWS)}
        rows: list[Any] = [
            {"line_id": key, "text": text, "weight": n}
            for n, (key, text) in enumerate(texts.items())
        ]
        rows[100:100] = [shop.line(int(key[1:]), f"!fail {version}") for key in DEAD]
        shop.write_lines(self.home, [*rows, "{broken"], day)
        return Landed({key: text[::-1] for key, text in texts.items()})

    def land_changes(self, day: str, before: Landed, version: str) -> Landed:
        """Land most rows as they were; every third has changed, some are gone, some are new."""
        texts = {f"l{n}": f"{day} {version} {n}" for n in range(0, ROWS + 40, 3)}
        texts = {**{key: text[::-1] for key, text in before.expected.items()}, **texts}
        texts = {key: text for key, text in texts.items() if not key.endswith("7")}
        rows: list[Any] = [
            {"line_id": key, "text": text, "weight": int(key[1:])} for key, text in texts.items()
        ]
        shop.write_lines(self.home, [*rows, *(shop.line(1000 + n, "!fail") for n in (0, 1))], day)
        return Landed({key: text[::-1] for key, text in texts.items()})

    def publish(self, day: str, *, run_id: str = "before", **changes: Any) -> None:
        """Work the partition through in this process, as fast as it goes."""
        house = shop.house(self.warehouse, self.home)
        run_partition(shop.reversing(**changes), day, run_id=run_id, house=house)

    def start(
        self,
        day: str,
        *arguments: str,
        run_id: str = "run",
        module: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Step:
        """Start a step process: `tests.chaos.step`, or another module of its kind."""
        if module is None:
            arguments = ("--run-id", run_id, "--log", str(self.log), *arguments)
        said = self.home / f"step-{len(self._steps)}.txt"
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module or "tests.chaos.step", day, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**environment(self.home), **(variables or {})},
                start_new_session=True,
            )
        step = Step(process, said)
        self._steps.append(step)
        return step

    def tail(self) -> Log:
        """The engine's log from here on."""
        return Log(self.log, self.log.stat().st_size if self.log.exists() else 0)

    def published(self, day: str) -> list[tuple[str, str]]:
        return self._read(
            "SELECT line_id, reversed FROM published.reversed_lines WHERE partition_key = :day", day
        )

    def dead_letters(self, day: str) -> list[str]:
        found = self._read(
            "SELECT key FROM lineage.current_dead_letters WHERE partition_key = :day", day
        )
        return [key for (key,) in found]

    def places(self, day: str) -> dict[str, str]:
        """Where each published row lies: an UPDATE would put it elsewhere."""
        found = self._read(
            "SELECT line_id, ctid::text || xmin::text FROM published.reversed_lines "
            "WHERE partition_key = :day",
            day,
        )
        return dict(found)

    def attempts(self, day: str) -> list[str]:
        """How each attempt at the partition ended, in their order."""
        found = self._read(
            "SELECT outcome FROM lineage.attempts WHERE partition_key = :day ORDER BY attempt", day
        )
        return [outcome for (outcome,) in found]

    def worker(self) -> psutil.Process | None:
        """The process that holds the engine, if one does."""
        for event in reversed(Log(self.log).read()):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(event.pid)
                if "ray::" in command(process):
                    return process
            return None
        return None

    def close(self) -> None:
        for step in self._steps:
            if step.running:
                step.signal(signal.SIGKILL)
            step.process.wait()

    def _read(self, query: str, day: str) -> list[Any]:
        with self.warehouse.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query), {"day": day})]


@contextlib.contextmanager
def open_lab(head: str | None) -> Iterator[Lab]:
    """Make an installation; leaving stops everything that it started.

    Args:
        head: the address of a Ray head for its runs to use; None: a Ray of each run's own.
    """
    with open_home() as home, Warehouse.open(home=home) as warehouse:
        if head is not None:
            (home / "ray.json").write_text(json.dumps({"address": head, "pid": os.getpid()}))
        lab = Lab(home, warehouse)
        try:
            yield lab
        finally:
            lab.close()


def environment(home: Path) -> dict[str, str]:
    """What a process of this installation is started with."""
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    return {**os.environ, "OVERNIGHT_HOME": str(home), "PYTHONPATH": paths}


def wait_for(
    condition: Callable[[], bool], step: Step | None = None, *, every_s: float = 0.005
) -> bool:
    """Wait until something holds; False if the process ended before it did.

    Args:
        condition: what is to hold.
        step: the process.
        every_s: how long to wait between two looks, seconds.
    """
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if step is not None and not step.running:
            return False
        assert time.monotonic() < give_up, step.output if step else "nothing happened"
        time.sleep(every_s)
    return True


def rows_of(events: list[Event]) -> int:
    """How many different rows they are about."""
    return len({event.text for event in events})
