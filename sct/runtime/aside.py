"""Folders in which something is built before it is renamed; what killed processes have left of them is removed."""

import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

PREFIX = ".part-"


@contextmanager
def aside(parent: Path) -> Iterator[Path]:
    """Gives an empty folder in `parent`, which is removed when the block ends, with all that is still in it.

    Folders of killed processes are removed first: a lock of the system beside each folder tells who is alive.
    """
    remove_abandoned(parent)
    folder = parent / f"{PREFIX}{uuid.uuid4().hex}"
    lock = FileLock(lock_file(folder), blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError:  # some network file systems have no locks: without its file nobody takes the folder away
        lock_file(folder).unlink(missing_ok=True)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        lock_file(folder).unlink(missing_ok=True)


def remove_abandoned(parent: Path) -> None:
    """Removes the folders of `aside` whose processes have ended without removing them."""
    for folder in parent.glob(f"{PREFIX}*"):
        file = lock_file(folder)
        # a link, or a folder without a lock, is not of this function
        if not folder.is_dir() or folder.is_symlink() or not file.is_file() or file.is_symlink():
            continue
        lock = FileLock(file, blocking=False, fallback_to_soft=False)
        try:
            lock.acquire()
        except (Timeout, OSError):
            continue
        logger.info("%s is removed: the process that built it was killed", folder)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        file.unlink(missing_ok=True)


def lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
