"""How the system says that a disk is full, and who tells it: alone, since every command loads it at its start."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# that a disk, or the part of it that a user may have, is full
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_told_once() -> Iterator[None]:
    """No traceback where a thread, such as TensorBoard's, meets a full disk: who waits for it raises the error."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not (isinstance(arguments.exc_value, OSError) and arguments.exc_value.errno in FULL):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
