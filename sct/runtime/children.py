"""Commands as processes of their own, several at a time, which end when this process is asked to end."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sct.runtime.signals import Ending, Interrupted

Item = TypeVar("Item")
Result = TypeVar("Result")

# a terminal that is closed; Windows does not have it
HANGUP = getattr(signal, "SIGHUP", None)

# commands that run; all threads of this process start their commands here, since a signal is for the process
_running: set[subprocess.Popen] = set()
_lock = threading.Lock()
_ended = threading.Event()


def call(line: Sequence[str], *, log: Path, environment: dict[str, str]) -> int:
    """Runs a command, with its output at the end of the file `log`, and returns its exit status.

    Interrupted where this process has been asked to end before the command has begun.
    """
    with log.open("a") as file:
        with _lock:
            if _ended.is_set():
                raise Interrupted(signal.SIGTERM)
            # a group of its own: Ctrl-C reaches this process alone, which then asks each command once
            group = 0 if os.name == "posix" else None
            process = subprocess.Popen(
                line, stdout=file, stderr=subprocess.STDOUT, env=environment, process_group=group
            )
            _running.add(process)
        try:
            return process.wait()
        finally:
            with _lock:
                _running.discard(process)


def each(function: Callable[[Item], Result], items: Iterable[Item], *, jobs: int) -> list[Result]:
    """The results of a function of every item, `jobs` at a time, in threads; all are tried before an error is raised.

    SIGINT, SIGTERM and SIGHUP end all commands that `call` runs (a training saves first), and then raise `Interrupted`.
    """
    with Ending(also=() if HANGUP is None else (HANGUP,)), ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except Interrupted:
            for future in futures:
                future.cancel()
            end()
            raise


def end() -> None:
    """Asks all running commands to end, and lets `call` start no other."""
    with _lock:
        _ended.set()
        for process in _running:
            process.terminate()
