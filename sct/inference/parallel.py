"""Several forward passes at the same time on one CPU."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

# Items for each worker that are being computed, or whose results wait.
AHEAD = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, device: torch.device
) -> Iterator[Result]:
    """Yields function(item) for every item in order, computed by `workers` threads; one worker: in the caller's thread.

    The many small operations of a single window leave part of a second core idle; two windows at once use it. PyTorch's
    threads are divided among the workers until the last item is computed. The caller's autocast on `device` applies in
    the workers too. Besides the result that was yielded last, AHEAD results for each worker are stored or being
    computed, so that workers do not wait while a chunk is turned into labels.
    """
    if workers == 1:
        yield from map(function, items)
        return
    enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    def inherit() -> None:
        # entered once for each thread: if autocast ended after every item, it would cast all weights again
        torch.autocast(device.type, dtype=dtype, enabled=enabled).__enter__()

    items, waiting = iter(items), deque[Future[Result]]()
    with threads_shared(workers), ThreadPoolExecutor(workers, initializer=inherit) as pool:
        try:
            while True:
                ahead = islice(items, AHEAD * workers - len(waiting))
                waiting.extend(pool.submit(function, item) for item in ahead)
                if len(waiting) < 2:
                    break
                # not stored in a variable, which would keep it in memory beside the next one
                yield waiting.popleft().result()
        except BaseException:  # also if the caller stops before the last result
            for future in waiting:
                future.cancel()
            raise
    if waiting:
        yield waiting.popleft().result()


@contextmanager
def threads_shared(workers: int) -> Iterator[None]:
    """Divides PyTorch's number of threads by `workers`, for this thread and threads that start within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
