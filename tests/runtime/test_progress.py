"""What users see while they wait, by a clock that the tests set."""

import logging
import time
from datetime import datetime

import pytest

from sct.runtime.progress import Pace, counted, expected, in_words

MORNING = datetime(2025, 3, 4, 9, 0).timestamp()


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = MORNING

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def advance(pace: Pace, clock: Clock, *seconds: float) -> None:
    for length in seconds:
        clock.now += length
        pace.advance()


def test_the_first_step_tells_time_and_end(clock):
    pace = Pace(501, unit="step", clock=clock)
    advance(pace, clock, 3.14159)
    assert pace.text() == "3.1 s a step, about 26 minutes to go, ends 09:26"
    assert pace.place() == "step 1 of 501"


def test_the_first_step_is_no_measure_of_the_others(clock):
    pace = Pace(103, unit="step", clock=clock)
    advance(pace, clock, 300, 2, 2)
    assert pace.rest() == pytest.approx(100 * 2)


def test_the_rest_is_of_what_is_left_after_a_resume(clock):
    pace = Pace(100, unit="step", done=90, clock=clock)
    advance(pace, clock, 1, 2, 2)
    assert (pace.rest(), pace.place()) == (pytest.approx(7 * 2), "step 93 of 100")


def test_steps_of_long_ago_are_forgotten(clock):
    pace = Pace(1000, unit="step", clock=clock)
    advance(pace, clock, *[10] * 100, *[1] * 50)
    assert pace.rest() == pytest.approx(850)


def test_validations_that_were_seen_are_expected_again(clock):
    pace = Pace(100, unit="step", clock=clock)
    advance(pace, clock, *[1] * 20)
    assert pace.rest() == pytest.approx(80)
    clock.now += 40
    pace.pause()
    assert pace.rest() == pytest.approx(80 * (1 + 2))
    advance(pace, clock, *[1] * 10)
    assert pace.rest() == pytest.approx(70 * (1 + 2)), "not one that belongs to the last step, nor spread over more"
    assert "1 s a step" in pace.text()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (1 / 64, [1, 650, 1290, 1930, 2570, 3000]),  # quick ones: not all that are wanted
        (4.0, [1, *range(10, 3001, 10)]),  # as they are wanted
        (40.0, [1, 3, 5, 7, 9, *range(10, 3001, 2)]),  # and one a minute or so
        (100.0, [*range(1, 3001)]),
    ],
)
def test_lines_come_as_wanted_but_neither_too_often_nor_too_seldom(clock, seconds, told):
    pace, found = Pace(3000, unit="step", clock=clock), []
    for step in range(1, 3001):
        advance(pace, clock, seconds)
        if pace.is_due(wanted=step % 10 == 0):
            found.append(step)
    assert found == told


def test_many_cases_are_counted_and_few_are_not(clock, caplog):
    def passed(number: int, seconds: float) -> list[str]:
        caplog.clear()
        for _ in counted(range(number), what="checked", clock=clock):
            clock.now += seconds
        return caplog.messages

    with caplog.at_level(logging.INFO):
        assert passed(9, 1) == []
        assert passed(400, 1)[0] == "checked 10 of 400, about 6 minutes to go, ends 09:06"
        assert len(passed(400, 1)) == 39
        assert passed(2, 50) == [], "the last one tells nothing new"


def test_lengths_of_time():
    assert [in_words(s) for s in (0.4, 119, 120, 3600, 7200, 86400 * 3.2)] == [
        "0 s", "119 s", "2 minutes", "60 minutes", "2 hours", "3 days"
    ]  # fmt: skip
    late = datetime(2025, 3, 4, 23, 30).timestamp()
    assert expected(60 * 29, now=late) == "about 29 minutes to go, ends 23:59"
    assert expected(60 * 31, now=late) == "about 31 minutes to go, ends 05 Mar 00:01"


def test_the_clock_is_the_systems():
    before = time.time()
    assert before <= Pace(1, unit="step").mark <= time.time()
