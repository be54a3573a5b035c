"""Runs the real commands inside the test process, and judges what they tell the user."""

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

SMOKE = ("+experiment=demo", "+debug=smoke", "decoder=unetr_thin", "trainer.tensorboard=false")


@dataclass(frozen=True)
class Outcome:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """One thread, and what a command sets for its whole process put back: log handlers and determinism."""
    root = logging.getLogger()
    handlers, level, num_threads = root.handlers[:], root.level, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(num_threads)


def run_command(main: Callable[[], None], *arguments: object) -> Outcome:
    """What `python -m sct.<module> arguments` does and says; `main` is the module's."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        own_settings(),
    ):
        patch.setattr(sys, "argv", ["sct", *map(str, arguments)])
        patch.setattr(sys, "path", sys.path[:])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())


def assert_one_message(outcome: Outcome, *words: str) -> None:
    """The command failed with one message to the user, which has all of these words in it."""
    assert outcome.status == 1, outcome
    assert outcome.err.startswith("Error: "), outcome.err
    assert sum(line.startswith("Error") for line in outcome.err.splitlines()) == 1, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    for word in words:
        assert str(word) in outcome.err, outcome.err


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, to see that nothing was written over."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flipped(content: bytes, *, bit: int) -> bytes:
    """The bytes with one bit changed, as a failing disk does it."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
