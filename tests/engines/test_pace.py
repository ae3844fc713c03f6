"""How fast rows are told to go."""

from __future__ import annotations

from overnight.engines.pace import Pace


def test_a_step_that_brings_a_row_several_tokens_takes_that_much_less_for_each() -> None:
    pace = Pace()
    pace.stepped(10.0, busy=True)
    pace.stepped(12.0, busy=True, tokens=4.0)
    assert pace.seconds_per_token == 0.5


def test_the_time_between_two_batches_is_nobodys() -> None:
    pace = Pace()
    pace.stepped(10.0, busy=True)
    pace.stepped(12.0, busy=False)
    pace.stepped(100.0, busy=True)
    assert pace.seconds_per_token == 2.0


def test_rows_longer_than_most_are_given_all_that_they_may_have() -> None:
    pace = Pace()
    for tokens in range(1, 101):
        pace.finished(tokens)
    assert pace.tokens_left(0, 128) == 90
    assert pace.tokens_left(95, 128) == 33
