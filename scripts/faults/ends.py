"""Moments at which a process ends, and ways in which it does: signals, full and read-only disks, dead helpers."""

import errno
import io
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import psutil

from sct.runtime import files

Call = Callable[[], Any]


@dataclass(frozen=True)
class End:
    """A way to end.

    do: called in the place of the function at the moment, with the function's own call; statuses: exit statuses that
    the command may have then; words: what it must say
    """

    do: Callable[[Call], Any]
    statuses: tuple[int, ...]
    words: str = ""


def signalled(number: int, *, times: int = 1) -> Callable[[Call], Any]:
    """Sends itself a signal before the call."""

    def do(call: Call) -> Any:
        for _ in range(times):
            os.kill(os.getpid(), number)
        return call()

    return do


def died_after(call: Call) -> None:
    call()
    os.kill(os.getpid(), signal.SIGKILL)


def without_worker(call: Call) -> Any:
    """Kills a loading process."""
    for child in psutil.Process().children():
        child.kill()
    return call()


def refused(number: int) -> Callable[[Call], Any]:
    """The system refuses to write, now and for the rest of the process."""

    def do(call: Call) -> None:
        if number in files.FULL:
            files.why_full = lambda folder: OSError(number, os.strerror(number), str(folder))
        raise OSError(number, os.strerror(number))

    return do


KILLED, TERMINATED = -signal.SIGKILL, 128 + signal.SIGTERM
ENDS = {
    "SIGKILL": End(signalled(signal.SIGKILL), (KILLED,)),
    "SIGKILL after it": End(died_after, (KILLED,)),
    "SIGTERM": End(signalled(signal.SIGTERM), (TERMINATED,), "Ended by SIGTERM"),
    "SIGINT": End(signalled(signal.SIGINT), (128 + signal.SIGINT,), "Ended by SIGINT"),
    "SIGTERM twice": End(signalled(signal.SIGTERM, times=2), (-signal.SIGTERM, TERMINATED)),
    "full disk": End(refused(errno.ENOSPC), (1,), "Make room"),
    "quota": End(refused(errno.EDQUOT), (1,), "Make room"),
    "read-only disk": End(refused(errno.EROFS), (1,), "write elsewhere"),
    "dead worker": End(without_worker, (1,), "A loading process has ended by itself"),
}
SIGNALS = ("SIGKILL", "SIGKILL after it", "SIGTERM", "SIGINT", "SIGTERM twice")
DISKS = ("full disk", "quota", "read-only disk")


@dataclass(frozen=True)
class Moment:
    """One of the first `most` calls of a function, and the ways to end that make sense there.

    half: what the function leaves on the disk if it is cut, given its arguments
    """

    owner: Any
    function: str
    most: int
    ends: tuple[str, ...] = SIGNALS
    half: Callable[..., None] | None = None


def at_call(moment: Moment, *, number: int, end: End) -> None:
    """Replaces a function of this process by one whose `number`-th call ends the process."""
    original, calls = getattr(moment.owner, moment.function), itertools.count(1)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        if next(calls) != number:
            return original(*args, **kwargs)
        if moment.half is not None and end.statuses in ((KILLED,), (1,)):
            moment.half(original, *args, **kwargs)
        return end.do(lambda: original(*args, **kwargs))

    setattr(moment.owner, moment.function, replacement)


def half_a_checkpoint(original: Callable, descriptor: int, parts: Iterator[memoryview]) -> None:
    """Leaves half of a checkpoint on the disk."""
    content = b"".join(parts)
    os.write(descriptor, content[: len(content) // 2])


def half_a_state(original: Callable, state: Any, file: IO[bytes]) -> None:
    """Leaves half of what `torch.save` writes in an open file."""
    content = io.BytesIO()
    original(state, content)
    file.write(content.getvalue()[: content.tell() // 2])
    file.flush()


def half_a_file(original: Callable, path: Any, *args: Any, **kwargs: Any) -> None:
    """Leaves half of a file on the disk that the function writes to a path."""
    original(path, *args, **kwargs)
    os.truncate(path, os.stat(path).st_size // 2)
