"""Runs cases of any kind in a child process that is watched, and sorts the outcomes.

A case is a function of (kind, seed). Outcomes: `ok`, `refused` (a UserError that names the file), and defects:
anonymous (a UserError without the file), crash, hang, memory, SILENT (accepted, but wrong) and
HONEST (a file without a change is refused).
"""

import collections
import os
import re
import resource
import select
import shutil
import signal
import time
import traceback
from pathlib import Path

import monai.transforms  # noqa: F401  what resampling of oblique volumes loads once is no case's memory
import numpy as np

from fuzzing.kind import Change, Kind
from sct.errors import UserError

# seconds of computing that count as a hang, and after which a case ends; seconds without a word that end its process
HANGS, ALARM, DEADLINE = 2.0, 5.0, 60.0
# bytes of address space above the start; of memory that no case of ours needs
ROOM, GROWTH = 16 << 30, 48 << 20
GOOD = ("ok", "refused")


class Stopped(BaseException):
    """Not an Exception: nothing may swallow it."""


def stop(*_: object) -> None:
    raise Stopped


def drawn_case(name: str, kind: Kind, seed: int) -> tuple[dict, list[Change]]:
    return kind.draw(np.random.default_rng([*name.encode(), seed]))


def outcome_of(kind: Kind, folder: Path, base: dict, changes: list[Change]) -> str:
    """The outcome of a case, with time and memory where they are the defect; its files stay in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, began = peak(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, ALARM)
    try:
        problems = kind.judge(folder, base, changes)
        outcome = f"SILENT: {problems[0]}" if problems else "ok"
    except UserError as error:
        outcome = refusal(error, folder)
        if outcome == "refused" and not changes and kind.honest:
            outcome = f"HONEST: {plain(str(error), folder)}"
    except Stopped:
        outcome = "hang: stopped"
    except Exception as error:
        outcome = described(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if time.process_time() - began > HANGS:
        outcome = f"hang ({outcome})"
    return f"memory ({outcome})" if peak() - before > GROWTH else outcome


def refusal(error: UserError, folder: Path) -> str:
    """Whether the error names a file, or hides that memory ran out."""
    files = [str(path) for path in folder.rglob("*") if path.is_file()]
    named = re.search(re.escape(str(folder)) + r"/(\S*\.\w+|\S*/\S|series)", str(error))  # also one that is not there
    if named is None and not any(path in str(error) for path in files):
        return f"anonymous: {plain(str(error), folder)}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return f"memory: {plain(str(error), folder)}"
        cause = cause.__cause__ or cause.__context__
    return "refused"


def plain(text: str, folder: Path) -> str:
    """The beginning of a message without its paths and numbers, so that like ones count as one."""
    text = "".join("#" if letter.isdigit() else letter for letter in text.replace(str(folder), "").partition("\n")[0])
    while "##" in text:
        text = text.replace("##", "#")
    return text[:110]


def described(error: Exception) -> str:
    """Type and place in sct of a crash."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [frame for frame in frames if "/sct/" in frame.filename and "site-packages" not in frame.filename]
    where = f"{Path(places[-1].filename).name}:{places[-1].name}" if places else "the judge"
    return f"crash: {type(error).__name__} in {where}: {plain(str(error), Path('/nowhere'))[:60]}"


def peak() -> int:
    """Bytes: the most memory since it was last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise AssertionError("no peak of memory on this system")


def limit_memory() -> None:
    """A limit of address space for this process, and the alarm of a case."""
    signal.signal(signal.SIGPROF, stop)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def campaign(name: str, kind: Kind, *, first: int, cases: int, out: Path) -> dict[str, list[int]]:
    """Seeds by outcome. The cases run in a child process; where one ends it, this is its outcome."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    number = first
    while number < first + cases:
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.close(read)
            _work(name, kind, seeds=range(number, first + cases), folder=out / f"{name}-case", to=write)
        os.close(write)
        for seed, outcome in _reports(read):
            found[outcome].append(seed)
            number = seed + 1
        os.close(read)
        if number < first + cases:
            os.kill(child, signal.SIGKILL)
            found["crash: the process ended or stood still"].append(number)
            number += 1
        os.waitpid(child, 0)
    return dict(found)


def _work(name: str, kind: Kind, *, seeds: range, folder: Path, to: int) -> None:
    """A child's whole life."""
    limit_memory()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # libraries in C tell of every fault
    warm = drawn_case(name, kind, seeds[0])
    outcome_of(kind, folder, warm[0], [])  # what is loaded once is no case's memory
    for seed in seeds:
        outcome = outcome_of(kind, folder, *drawn_case(name, kind, seed))
        os.write(to, f"{seed} {outcome.encode('ascii', 'replace').decode()}\n".encode())
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _reports(pipe: int) -> "collections.abc.Iterator[tuple[int, str]]":
    """What a child tells, until it ends or says nothing for too long."""
    text = b""
    while select.select([pipe], [], [], DEADLINE)[0] and (more := os.read(pipe, 1 << 16)):
        *lines, text = (text + more).split(b"\n")
        for line in lines:
            seed, outcome = line.decode().split(" ", 1)
            yield int(seed), outcome


def minimised(kind: Kind, folder: Path, base: dict, changes: list[Change]) -> tuple[str, list[Change]]:
    """The outcome with as few changes as give it; the files stay in `folder`."""
    wanted = outcome_of(kind, folder, base, changes)
    for change in list(changes):
        fewer = [other for other in changes if other is not change]
        if outcome_of(kind, folder, base, fewer) == wanted:
            changes = fewer
    return outcome_of(kind, folder, base, changes), changes
