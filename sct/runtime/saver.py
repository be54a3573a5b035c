"""Saving while the training goes on: a copy of the state in memory, which a thread writes to the disk."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from sct.runtime import checkpoint
from sct.runtime.blocks import Blocks
from sct.runtime.resident import available_bytes

logger = logging.getLogger(__name__)


class Saver:
    """Saves checkpoints in a thread of its own, one at a time and in order.

    `save` returns once the state is copied: what changes in it later does not change the file. The copy takes as much
    memory as the file has bytes, and keeps it for the next copy. Where memory is short, `save` writes by itself, which
    is said once. The errors of the thread are raised by the next call of any method; at the end of the context too.
    """

    def __init__(self) -> None:
        self._copy = Blocks()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._written: Future[None] | None = None
        self._is_told = False

    def save(self, state: dict[str, Any], path: Path) -> None:
        """As `checkpoint.save`, but the file may be complete only after `wait`."""
        self._save(state, path, then=lambda: None)

    def save_step(self, state: dict[str, Any], run_dir: Path, *, step: int, previous: int | None) -> None:
        """As `checkpoint.save_step`, complete after `wait`; `previous` may be the step of the saving before."""
        path = checkpoint.step_path(run_dir, step=step)
        self._save(state, path, then=partial(checkpoint.remove_earlier, path, step=step, previous=previous))

    def _save(self, state: dict[str, Any], path: Path, *, then: Callable[[], None]) -> None:
        self.wait()
        if self._is_short(num_bytes(state)):
            checkpoint.save(state, path)
            then()
            return
        checkpoint.copy_to(self._copy, state)

        def write() -> None:
            checkpoint.save_copy(self._copy, path)
            then()

        self._written = self._thread.submit(write)

    def _is_short(self, needed: int) -> bool:
        """Whether a copy would take more than half of the free memory."""
        more, free = needed - self._copy.capacity, available_bytes()
        if more <= free / 2:
            return False
        if not self._is_told:
            logger.warning(
                "the training waits while a checkpoint is written: a copy of it needs %.0f MB, and %.0f MB are free",
                more / 1e6,
                free / 1e6,
            )
            self._is_told = True
        return True

    def check(self) -> None:
        """Raises the error of the thread if it has failed; does not wait for it."""
        if self._written is not None and self._written.done():
            self.wait()

    def wait(self) -> None:
        """Waits until what was saved is on the disk."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as lost:
            if error is None:
                raise
            logger.error("the last checkpoint is not written: %s", lost)


def num_bytes(value: Any) -> int:
    """Bytes of all tensors in nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(num_bytes, parts))
