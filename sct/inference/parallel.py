"""Several forward passes at the same time on one processor."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

# Items that are computed, or wait to be asked for, a worker.
AHEAD = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, device: torch.device
) -> Iterator[Result]:
    """function(item) of every item in order, computed by `workers` threads; one computes in the caller's own.

    A window's many small operations leave part of a second core idle, two windows at once do not. PyTorch's threads
    are shared out among the workers until the last item is computed, and the caller's autocast on `device` holds in
    them. Beside the result that was handed out last, AHEAD a worker are held or being computed: so many that the
    workers need not wait while a chunk is made into labels.
    """
    if workers == 1:
        yield from map(function, items)
        return
    enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    def inherit() -> None:
        # for the life of the thread: left after every item, autocast would cast all weights anew for the next
        torch.autocast(device.type, dtype=dtype, enabled=enabled).__enter__()

    items, waiting = iter(items), deque[Future[Result]]()
    with threads_shared(workers), ThreadPoolExecutor(workers, initializer=inherit) as pool:
        try:
            while True:
                ahead = islice(items, AHEAD * workers - len(waiting))
                waiting.extend(pool.submit(function, item) for item in ahead)
                if len(waiting) < 2:
                    break
                # without a name, it would be held beside the next one
                yield waiting.popleft().result()
        except BaseException:  # also where no more results are asked for
            for future in waiting:
                future.cancel()
            raise
    if waiting:
        yield waiting.popleft().result()


@contextmanager
def threads_shared(workers: int) -> Iterator[None]:
    """PyTorch's threads, divided by `workers`, in this thread and in those that begin meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
