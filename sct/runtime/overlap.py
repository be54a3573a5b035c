"""Reading, computing and writing at the same time, for work that comes item by item."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Read = TypeVar("Read")
Result = TypeVar("Result")


def overlapped(
    items: Sequence[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Read], Result],
    write: Callable[[Item, Result], None],
) -> None:
    """write(item, compute(read(item))) for every item in order, where the next is read and the last written meanwhile.

    Two threads beside this one, which computes, and never more than one item ahead or behind: of all that is read or
    computed, two are held at once. What a thread raises is raised here, at the latest with the item after it; where
    that one fails too, what was lost in writing is logged.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future[Read] | None = None
        written: Future[None] | None = None
        for number, item in enumerate(items, start=1):
            # the first one here: nothing else is to do, and this thread has its helpers for parallel loops already
            data = read(item) if ahead is None else ahead.result()
            ahead = reader.submit(read, items[number]) if number < len(items) else None
            try:
                result = compute(data)
            except Exception:  # raised again: nothing is hidden, the other loss is added
                if written is not None and (lost := written.exception()) is not None:
                    logger.error("what was computed before is not written: %s", lost)
                raise
            del data  # the next is already there
            if written is not None:
                written.result()
            written = writer.submit(write, item, result)
            del result
        if written is not None:
            written.result()
