"""Reads, computes and writes different items at the same time."""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Read = TypeVar("Read")
Result = TypeVar("Result")


def overlapped(
    items: Iterable[Item],
    *,
    read: Callable[[Item], Read],
    compute: Callable[[Read], Result],
    write: Callable[[Item, Result], None],
) -> None:
    """Calls write(item, compute(read(item))) for every item in order; reads the next and writes the last meanwhile.

    This thread computes, a second one reads and a third one writes. Each is at most one item ahead or behind: two read
    items and two results are in memory at once. `items` are asked for one by one, each where it is read. An exception
    of a thread is raised here, at the latest with the next item. If the next item fails too, its exception is raised
    and the lost writing is logged.
    """
    iterator = iter(items)

    def following() -> tuple[Item, Read] | None:
        for item in iterator:
            return item, read(item)
        return None

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        # this thread reads the first item: it has no other work, and its helper threads for parallel loops exist
        entry = following()
        while entry is not None:
            item, data = entry
            del entry
            ahead = reader.submit(following)
            try:
                result = compute(data)
            except Exception:  # raised again below; a failed writing is logged in addition
                if written is not None and (lost := written.exception()) is not None:
                    logger.error("what was computed before is not written: %s", lost)
                raise
            del data  # frees memory: the next item is already read
            if written is not None:
                written.result()
            written = writer.submit(write, item, result)
            del result
            entry = ahead.result()
            del ahead
        if written is not None:
            written.result()
