"""Signals that ask a command to end: they raise `Interrupted`, or wait until work that must not be cut is done."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

# asks a job to save and to be queued again, see sct.runtime.requeue; Windows does not have it
REQUEUE = getattr(signal, "SIGUSR1", None)


class Interrupted(KeyboardInterrupt):
    """A signal ends the command. As KeyboardInterrupt it passes those who catch the failure of a single case.

    number: of the signal; advice: how to go on
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.advice = number, "The same command does what is left; a training goes on with resume=auto."

    def __str__(self) -> str:
        return f"Ended by {signal.Signals(self.number).name}. {self.advice}"

    @property
    def status(self) -> int:
        """The exit status by which shells and schedulers know the signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class Ending:
    """A context in which SIGINT and SIGTERM raise `Interrupted` in the main thread; a second signal ends at once.

    also: further signals; announce: say on stderr that work which must not be cut goes on first; patience: seconds in
    which a second signal counts as the first one: torchrun passes on what its processes have got from the terminal, too
    received: number of the first signal; None before. In another thread than the main one it changes nothing.
    """

    def __init__(self, *, also: tuple[int, ...] = (), announce: bool = True, patience: float = 0.0) -> None:
        self.numbers, self.announce, self.patience = (signal.SIGINT, signal.SIGTERM, *also), announce, patience
        self.received: int | None = None
        self._first = 0.0
        self._is_held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Ending":
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and time.monotonic() - self._first < self.patience:
            return
        if self.received is None and self.patience > 0:
            self._first = time.monotonic()
        else:  # the system then needs no line of Python to be reached
            for other in self._before:
                signal.signal(other, signal.SIG_DFL)
        if self.received is not None:
            os.kill(os.getpid(), number)
        self.received = number
        if not self._is_held:
            raise Interrupted(number)
        if self.announce:
            # no logging: the signal may have come while a line is written
            os.write(2, f"{signal.Signals(number).name}: saving first; a second signal ends at once\n".encode())

    def check(self) -> None:
        """Raises `Interrupted` if a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)

    @contextmanager
    def held(self) -> Iterator[None]:
        """In the block, a signal waits: for `check`, or for a block of `open`."""
        before, self._is_held = self._is_held, True
        try:
            yield
        finally:
            self._is_held = before

    @contextmanager
    def open(self) -> Iterator[None]:
        """In the block, which may be inside a block of `held`, a signal raises `Interrupted` at once."""
        before = self._is_held
        try:
            self._is_held = False
            self.check()
            yield
        finally:
            self._is_held = before
