"""Reading ahead and writing behind: all in order, no further ahead than one, and errors are told."""

import threading

import pytest

from sct.runtime.overlap import overlapped


def test_everything_is_written_in_order():
    written = []
    overlapped(
        range(5), read=lambda n: n * 10, compute=lambda n: n + 1, write=lambda n, result: written.append((n, result))
    )
    assert written == [(0, 1), (1, 11), (2, 21), (3, 31), (4, 41)]
    overlapped([], read=int, compute=int, write=lambda n, result: written.append(n))
    assert len(written) == 5


def test_the_first_is_read_in_the_thread_that_computes():
    readers = []
    overlapped(
        range(3),
        read=lambda number: readers.append(threading.current_thread()),
        compute=lambda number: number,
        write=lambda number, result: None,
    )
    assert [thread is threading.current_thread() for thread in readers] == [True, False, False]


def test_the_next_is_read_and_the_last_written_while_one_is_computed():
    """Every computation waits for both, and would wait for ever if they came before or after it."""
    read, written = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]
    log = []

    def compute(number):
        if number + 1 < 4:
            assert read[number + 1].wait(10)
        if number > 0:
            assert written[number - 1].wait(10)
        log.append(sum(event.is_set() for event in read) - number)
        return number

    def mark(events, number):
        events[number].set()
        return number

    overlapped(
        range(4),
        read=lambda number: mark(read, number),
        compute=compute,
        write=lambda number, _: mark(written, number),
    )
    assert log == [2, 2, 2, 1], "never more than the next one ahead"


@pytest.mark.parametrize("part", ["read", "compute", "write"])
@pytest.mark.parametrize("bad", [0, 2])
def test_errors_are_raised_where_it_was_called(part, bad):
    written = []

    def failing(number, *_):
        if number == bad:
            raise OSError(f"{part} {bad}")
        return number

    def write(number, _):
        written.append(number)

    parts = {"read": lambda number: number, "compute": lambda number: number, "write": write}
    parts[part] = (lambda number, _: (failing(number), write(number, _))) if part == "write" else failing
    with pytest.raises(OSError, match=f"{part} {bad}"):
        overlapped(range(3), **parts)
    assert written == list(range(bad)), "what was ready before is written"


def test_what_was_lost_in_writing_is_told_where_the_next_fails_too(caplog):
    def compute(number):
        if number:
            raise ValueError("no result")
        return number

    def write(number, result):
        raise OSError("disk full")

    with pytest.raises(ValueError, match="no result"):
        overlapped(range(2), read=int, compute=compute, write=write)
    assert "not written: disk full" in caplog.text
