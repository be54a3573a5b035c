"""Progress of a long task as text for logs: parts done, time for a part, expected end."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from statistics import fmean
from typing import TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Clock = Callable[[], float]

# seconds between two lines: at most and at least
SLOWEST_LINES = 60.0
QUICKEST_LINES = 10.0
# number of latest parts whose mean time is the expected time of the next parts
RECENT = 50


class Pace:
    """Measures the time of the equal parts of a task: steps of a training, cases of an evaluation.

    total: parts of the whole task; done: parts that earlier starts of the task have finished; unit: name of a part;
    clock: seconds since 1970, as `time.time`.
    """

    def __init__(self, total: int, *, unit: str, done: int = 0, clock: Clock = time.time) -> None:
        self.total, self.done, self.unit, self.clock = total, done, unit, clock
        self.since_start = 0  # parts finished since this start
        self.recent: deque[float] = deque(maxlen=RECENT)
        # seconds of all pauses since this start, and the parts finished when the last pause ended
        self.paused, self.parts_at_pause = 0.0, 0
        self.mark = self.last_line = clock()

    def advance(self) -> None:
        """Notes that one part has ended now."""
        # the time of the first part includes work that happens only once
        if self.since_start == 1:
            self.recent.clear()
        self.recent.append(self.lap())
        self.done, self.since_start = self.done + 1, self.since_start + 1

    def pause(self) -> None:
        """Notes that the time since the last part, such as a validation, belongs to no part but will come again."""
        self.paused += self.lap()
        self.parts_at_pause = self.since_start

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self.mark = self.mark, self.clock()
        return self.mark - before

    def rest(self) -> float:
        """Expected seconds until the end: mean time of recent parts plus the pauses' share for each part."""
        pause = self.paused / self.parts_at_pause if self.parts_at_pause else 0.0
        return (self.total - self.done) * (fmean(self.recent) + pause)

    def is_due(self, *, wanted: bool) -> bool:
        """Whether to log a line now; if True, the line counts as logged.

        The first and the last part always get a line. A `wanted` line is due `QUICKEST_LINES` seconds after the last
        line, any other line `SLOWEST_LINES` seconds after it.
        """
        silence = self.clock() - self.last_line
        longest = QUICKEST_LINES if wanted else SLOWEST_LINES
        due = self.since_start == 1 or self.done == self.total or silence >= longest
        if due:
            self.last_line = self.clock()
        return due

    def text(self) -> str:
        """For example "3.1 s a step, about 25 minutes to go, ends 14:05"."""
        parts = [f"{quantity(fmean(self.recent))} a {self.unit}"]
        if self.done < self.total:
            parts += [expected(self.rest(), now=self.clock())]
        return ", ".join(parts)

    def place(self) -> str:
        """For example "case 3 of 12"."""
        return f"{self.unit} {self.done} of {self.total}"


def counted(items: Sequence[Item], *, what: str, clock: Clock = time.time) -> Iterator[Item]:
    """Yields the items and sometimes logs a line such as "checked 40 of 400, about 2 minutes to go, ends 14:05"."""
    pace = Pace(len(items), unit="case", clock=clock)
    for item in items:
        yield item
        pace.advance()
        if pace.since_start > 1 and pace.done < pace.total and pace.is_due(wanted=True):
            logger.info("%s %d of %d, %s", what, pace.done, pace.total, expected(pace.rest(), now=clock()))


def quantity(seconds: float) -> str:
    """Seconds as text: two digits below 10 s, whole seconds above."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def expected(rest: float, *, now: float) -> str:
    """The time to the end of a task in words, and the time of day of its end; `rest` and `now` in seconds."""
    start = datetime.fromtimestamp(now)
    end = start + timedelta(seconds=rest)
    day = "" if end.date() == start.date() else f"{end:%d %b} "
    return f"about {in_words(rest)} to go, ends {day}{end:%H:%M}"


def in_words(seconds: float) -> str:
    """A duration as text, in the largest unit that fits into it at least twice."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}s"
    return f"{seconds:.0f} s"
