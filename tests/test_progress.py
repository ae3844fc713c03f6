"""Progress in words and as a bar."""

from __future__ import annotations

import io
from dataclasses import replace

from overnight.progress import Reporter, line
from overnight.workers.progress import PoolProgress

START = PoolProgress(
    seconds=10, rows=0, total=400, prompt_tokens=0, output_tokens=0, in_flight=0, workers=1, lost=0
)


def test_a_line_tells_rows_speed_and_when_it_will_be_done() -> None:
    now = replace(START, seconds=20, rows=100, prompt_tokens=4000, output_tokens=1000)
    assert line(now, START) == "100/400 rows (25%), 10.0 rows/s, 500 tokens/s, ETA 30 s, 1 worker"


def test_a_line_tells_of_lost_workers_and_long_times() -> None:
    now = replace(START, seconds=20, rows=1, workers=2, lost=3)
    assert line(now, START).endswith("ETA 1 h 06 min, 2 workers, 3 lost")


def test_waiting_is_told_as_waiting() -> None:
    assert "waiting for a worker" in line(replace(START, workers=0, seconds=42), None)


def test_a_bar_is_drawn_on_a_terminal_and_the_log_gets_the_line() -> None:
    said: list[str] = []
    terminal = io.StringIO()
    reporter = Reporter(said.append, terminal)
    reporter(START)
    reporter(replace(START, seconds=20, rows=400))
    assert len(said) == 2
    assert "█" * 24 in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")
