"""How far a long task is, how long a part of it takes, and when it will end: as text, for logs."""

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

# a user who waits sees a line at least this often, and at most that often
SLOWEST_LINES = 60.0
QUICKEST_LINES = 10.0
# how many parts make the expected time of the next ones
RECENT = 50


class Pace:
    """Takes the time of the equal parts of a task: steps of a training, cases of an evaluation.

    total, done: parts of the whole task, and of those what an earlier start of it has finished; unit: what a part is
    called; clock: seconds since 1970, as `time.time`.
    """

    def __init__(self, total: int, *, unit: str, done: int = 0, clock: Clock = time.time) -> None:
        self.total, self.done, self.unit, self.clock = total, done, unit, clock
        self.own = 0  # parts since this start
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.between, self.own_between = 0.0, 0
        self.mark = self.last_line = clock()

    def advance(self) -> None:
        """One part has ended now."""
        # the first one also takes what happens only once
        if self.own == 1:
            self.recent.clear()
        self.recent.append(self.lap())
        self.done, self.own = self.done + 1, self.own + 1

    def pause(self) -> None:
        """What came since the last part, such as a validation, belongs to none, but will come again."""
        self.between += self.lap()
        self.own_between = self.own

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self.mark = self.mark, self.clock()
        return self.mark - before

    def rest(self) -> float:
        """Expected seconds until the end: by the mean of recent parts, and of what came between parts until now."""
        between = self.between / self.own_between if self.own_between else 0.0
        return (self.total - self.done) * (fmean(self.recent) + between)

    def is_due(self, *, wanted: bool) -> bool:
        """Whether to tell something now; if so, that counts as told.

        The first part and the last one are told, a `wanted` line unless the last line was moments ago, and any part
        where there was no line for long.
        """
        silence = self.clock() - self.last_line
        due = self.own == 1 or self.done == self.total or silence >= (QUICKEST_LINES if wanted else SLOWEST_LINES)
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
    """The items, with a line such as "checked 40 of 400, about 2 minutes to go, ends 14:05" now and then."""
    pace = Pace(len(items), unit="case", clock=clock)
    for item in items:
        yield item
        pace.advance()
        if pace.own > 1 and pace.done < pace.total and pace.is_due(wanted=True):
            logger.info("%s %d of %d, %s", what, pace.done, pace.total, expected(pace.rest(), now=clock()))


def quantity(seconds: float) -> str:
    """Seconds with two digits, or whole ones."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def expected(rest: float, *, now: float) -> str:
    """What is left of a task, in words, and the time of the day at which it ends; both in seconds."""
    start = datetime.fromtimestamp(now)
    end = start + timedelta(seconds=rest)
    day = "" if end.date() == start.date() else f"{end:%d %b} "
    return f"about {in_words(rest)} to go, ends {day}{end:%H:%M}"


def in_words(seconds: float) -> str:
    """A length of time in the largest unit of which it has at least two."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}s"
    return f"{seconds:.0f} s"
