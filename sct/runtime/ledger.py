"""Work that any number of processes share: what is done, who is at it, and what failed, in one folder.

Every task has a record, a JSON file of its own, that is whole or not there. A process claims a task by a lock of the
system before it begins, and the system frees the lock however the process ends. A record is written while the task is
locked and before its output appears, which is renamed into its place: an output with a record is whole and was made
once. So processes may start, be killed and start again in any number, and no task is done twice or lost.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from sct.runtime.files import json_digest

logger = logging.getLogger(__name__)

LAYOUT = 1
# seconds between two looks at a task that another process is at, and until it is given up
PATIENCE, LONGEST = 0.5, 1e9


@dataclass(frozen=True)
class Task:
    """name: its id, unique, may hold slashes; files: what it reads; output: the file that it makes, None without."""

    name: str
    files: tuple[Path, ...]
    output: Path | None = None


class Claim:
    """A task that this process alone is at, until `finish`, `fail` or `release`."""

    def __init__(self, task: Task, *, ledger: "Ledger", lock: FileLock | None) -> None:
        self.task, self.ledger, self.lock = task, ledger, lock
        self.inputs = signature(task.files)
        # what a killed process has left in it goes with the rest, in `release`
        self.folder = ledger.folder / "unfinished" / hashed(task.name)

    def place(self, name: str) -> Path:
        """Where to write what `finish` moves: never seen by others, and removed in the end, also after a kill."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name

    def finish(self, result: Any = None, *, written: Path | None = None) -> None:
        """Records the task as done, moves what is `written` to the task's output, and lets go of the task."""
        target = self.task.output
        size = None
        if written is not None and target is not None:
            size = written.stat().st_size
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # one of other settings must not be taken for the one in the new record
        self._record({"output_bytes": size, "result": result})
        if written is not None and target is not None:
            written.replace(target)
        self.ledger.done.append(self.task.name)
        self.release()

    def fail(self, message: str) -> None:
        """Records why the task failed, which the next start tries again, and lets go of the task."""
        self._record({"error": message})
        self.ledger.failed[self.task.name] = message
        self.release()

    def release(self) -> None:
        """Lets go of the task; what is not finished is left to others."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.lock is not None:
            # while it is held: who opened it before sees that it has gone, and makes a new one
            with suppress(OSError):
                os.unlink(self.lock.lock_file)
            self.lock.release()
        self.ledger.claimed.discard(self)

    def _record(self, content: dict[str, Any]) -> None:
        path = self.ledger.path(self.task.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"layout": LAYOUT, "id": self.task.name, "files": [str(file) for file in self.task.files]}
        about |= {"signature": self.inputs, "made_by": self.ledger.made_by, **content}
        about["digest"] = json_digest(about)
        temporary = self.place("record.json")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(about, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@dataclass
class Ledger:
    """The records of many tasks; a context, at whose end every claim is let go.

    folder: where they are; made_by: stands for all that a result depends on beside the task's files
    done: names of what this process has finished · found: of what was finished already · failed: messages by name
    """

    folder: Path
    made_by: str
    done: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    claimed: set[Claim] = field(default_factory=set)
    _locks_work: bool = True
    _began: int = 0

    def __enter__(self) -> "Ledger":
        # by the clock of the file system, which all processes share
        self.folder.mkdir(parents=True, exist_ok=True)
        mark = self.folder / f".{os.getpid()}-{os.urandom(4).hex()}"
        mark.touch()
        self._began = mark.stat().st_mtime_ns
        mark.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for claim in list(self.claimed):
            claim.release()

    def claims(self, tasks: Iterable[Task]) -> Iterator[Claim]:
        """Each task that is to do, when its turn comes; the caller ends every claim, from whatever thread.

        A task that another process is at comes last: it is waited for, and done here where the other one was killed.
        What a process left that was killed after its last step is removed.
        """
        others, left = [], []
        for task in tasks:
            if self._is_settled(task):
                if self._lock_path(task).exists():
                    left.append(task)
                continue
            claim = self._claim(task, wait=False)
            if claim is None:
                others.append(task)
            elif self._is_settled(task):  # the other process has ended it in the meantime
                claim.release()
            else:
                yield claim
        for task in others:
            claim = self._claim(task, wait=True)
            assert claim is not None
            if self._is_settled(task):
                claim.release()
            else:
                yield claim
        for task in left:
            if (claim := self._claim(task, wait=True)) is not None:
                claim.release()

    def result(self, task: Task) -> Any:
        """What `finish` recorded of a task that is done; None where it is not."""
        record = self._read(task)
        return record.get("result") if record is not None and is_done(record, task) else None

    def path(self, name: str) -> Path:
        """The record of a task."""
        return self.folder / "records" / f"{name}.json"

    def _is_settled(self, task: Task) -> bool:
        """Whether nothing is to do: done already, or failed in another process since this one began."""
        record = self._read(task)
        if record is None:
            return False
        if "error" not in record:
            settled = is_done(record, task)
            if settled:
                self.found.append(task.name)
            return settled
        try:
            recent = self.path(task.name).stat().st_mtime_ns >= self._began
        except OSError:
            return False
        if recent:
            self.failed[task.name] = record["error"]
        return recent

    def _read(self, task: Task) -> dict[str, Any] | None:
        """The record of a task; None without one, or where it is damaged or of other files or another maker."""
        try:
            record = json.loads(self.path(task.name).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("layout") != LAYOUT or record.get("made_by") != self.made_by:
            return None
        digest = record.pop("digest", None)  # those of earlier versions have none
        if digest not in (None, json_digest(record)):
            return None
        return record if record.get("signature") == signature(task.files) else None

    def _claim(self, task: Task, *, wait: bool) -> Claim | None:
        """The task for this process alone; None where another one is at it, unless that is to be waited for."""
        lock = self._lock(task, wait=wait) if self._locks_work else None
        if lock is None and self._locks_work:
            return None
        claim = Claim(task, ledger=self, lock=lock)
        self.claimed.add(claim)
        return claim

    def _lock_path(self, task: Task) -> Path:
        return self.folder / "locks" / hashed(task.name)

    def _lock(self, task: Task, *, wait: bool) -> FileLock | None:
        path = self._lock_path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        # claimed in one thread and let go in another; a file that stands for a lock would outlive a killed process
        lock = FileLock(path, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire(timeout=LONGEST if wait else 0, poll_interval=PATIENCE)
        except Timeout:
            return None
        except OSError as error:  # some network file systems have no locks
            logger.warning(
                "%s can't be locked (%s): give processes that run at the same time different shards", path, error
            )
            self._locks_work = False
            return None
        return lock


def is_done(record: dict[str, Any], task: Task) -> bool:
    """Whether a record is of a task that ended well and whose output is still there, whole."""
    if "error" in record:
        return False
    if task.output is None:
        return True
    try:
        return task.output.stat().st_size == record.get("output_bytes")
    except OSError:
        return False


def signature(files: Sequence[Path]) -> list[list[int] | None]:
    """Size and time of change of files, wherever they lie; None for one that can't be looked at."""
    found: list[list[int] | None] = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append([stat.st_size, stat.st_mtime_ns])
    return found


def hashed(name: str) -> str:
    """A short name for a file that stands for a task."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
