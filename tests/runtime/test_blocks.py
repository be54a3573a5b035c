"""A file in memory is written as it is, whatever the file system makes of writing past the page cache."""

import errno
import os
import random
import zlib

import pytest

from sct.runtime import blocks
from sct.runtime.blocks import PAGE, Blocks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 2 * PAGE)


def filled(memory: Blocks, *, size: int, seed: int = 0) -> bytes:
    """Writes random bytes in pieces of all sizes; returns them."""
    rng = random.Random(seed)
    content = rng.randbytes(size)
    start = 0
    while start < size:
        end = start + rng.choice([1, 100, PAGE, 5 * PAGE])
        assert memory.write(content[start:end]) == len(content[start:end])
        start = end
    return content


def written(memory: Blocks, path) -> bytes:
    with path.open("wb") as file:
        memory.write_to(file)
    return path.read_bytes()


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, 2 * PAGE, 2 * PAGE + 1, 7 * PAGE + 1234])
def test_a_file_in_memory_becomes_one_on_the_disk(tmp_path, size):
    memory = Blocks()
    content = filled(memory, size=size)
    assert memory.size == size
    assert memory.checksum() == zlib.crc32(content)
    assert written(memory, tmp_path / "file") == content


def test_memory_is_kept_for_the_next_file_and_its_content_is_not(tmp_path):
    memory = Blocks()
    filled(memory, size=5 * PAGE)
    taken = memory.capacity
    memory.clear()
    content = filled(memory, size=3 * PAGE + 7, seed=1)
    assert memory.capacity == taken == 6 * PAGE
    assert memory.checksum() == zlib.crc32(content)
    assert written(memory, tmp_path / "file") == content


def test_a_write_that_is_cut_within_a_page_goes_on(tmp_path, monkeypatch):
    memory = Blocks()
    content = filled(memory, size=7 * PAGE + 1234)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:1000]))
    assert written(memory, tmp_path / "file") == content


def test_a_file_system_that_refuses_whole_pages_gets_them_through_the_cache(tmp_path, monkeypatch):
    memory = Blocks()
    content = filled(memory, size=3 * PAGE + 5)
    is_direct, refused, write = [False], [], os.write

    def switch(descriptor, *, on):
        is_direct[0] = on
        return on

    def refuse(descriptor, data):
        if is_direct[0]:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, data)

    monkeypatch.setattr(blocks, "set_direct", switch)
    monkeypatch.setattr(os, "write", refuse)
    assert written(memory, tmp_path / "file") == content
    assert refused == [2 * PAGE]


@pytest.mark.parametrize("lacking", ["fcntl", "O_DIRECT"])
def test_a_system_that_can_not_pass_the_cache_writes_through_it(tmp_path, monkeypatch, lacking):
    if lacking == "fcntl":
        monkeypatch.setattr(blocks, "fcntl", None)
    else:
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    memory = Blocks()
    content = filled(memory, size=3 * PAGE + 5)
    assert written(memory, tmp_path / "file") == content


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EINVAL])
def test_an_error_of_the_disk_is_raised(tmp_path, monkeypatch, number):
    memory = Blocks()
    filled(memory, size=PAGE)

    def fail(descriptor, data):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError) as caught:
        written(memory, tmp_path / "file")
    assert caught.value.errno == number
