"""A file in memory, and its way to the disk: past the page cache where the system can do this.

The page cache is memory in which the system keeps what is written until the disk has it. Copying a large file there,
and from there to the disk, takes a processor as long as the disk takes: time that a training on all processors loses.
"""

import errno
import os
from collections.abc import Iterator
from typing import BinaryIO

import torch

from sct.runtime.files import crc32

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# bytes of a block: above those that memory.py keeps, so that freed blocks go back to the system
BLOCK = 2**25
# past the page cache, places in memory and in the file are multiples of this
PAGE = 2**12


class Blocks:
    """A file in memory, of blocks that `clear` keeps: filling new memory takes the system longer than the copy."""

    def __init__(self) -> None:
        self.size = 0
        self._blocks: list[memoryview] = []

    @property
    def capacity(self) -> int:
        """Bytes of memory that are taken."""
        return len(self._blocks) * BLOCK

    def clear(self) -> None:
        """Makes the file empty."""
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Appends bytes; returns their number."""
        rest = memoryview(data).cast("B")
        number = len(rest)
        while rest:
            block, place = divmod(self.size, BLOCK)
            if block == len(self._blocks):
                self._blocks.append(new_block())
            piece = rest[: BLOCK - place]
            self._blocks[block][place : place + len(piece)] = piece
            self.size += len(piece)
            rest = rest[len(piece) :]
        return number

    def flush(self) -> None:
        """Does nothing; `torch.save` calls it."""

    def checksum(self) -> int:
        """The CRC-32 of the file."""
        total = 0
        for part in self._parts(self.size):
            total = crc32(part, total)
        return total

    def write_to(self, file: BinaryIO) -> None:
        """Writes the file into an empty one that is open for writing."""
        # past the page cache whole pages alone are written
        write_past_cache(file.fileno(), self._parts(-(-self.size // PAGE) * PAGE))
        file.truncate(self.size)

    def _parts(self, size: int) -> Iterator[memoryview]:
        """The first bytes, block by block."""
        for number, start in enumerate(range(0, size, BLOCK)):
            yield self._blocks[number][: size - start]


def new_block() -> memoryview:
    """A block of memory that begins at the start of a page."""
    memory = torch.empty(BLOCK + PAGE, dtype=torch.uint8)  # torch takes large pages, see memory.py
    start = -memory.data_ptr() % PAGE
    return memory[start : start + BLOCK].numpy().data


def write_past_cache(descriptor: int, parts: Iterator[memoryview]) -> None:
    """Writes parts one after the other, past the page cache where system and file system can do this."""
    is_direct = set_direct(descriptor, on=True)
    for part in parts:
        rest = part
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except OSError as error:
                if not is_direct or error.errno != errno.EINVAL:
                    raise
                # a file system with other pages, or a write that a full disk cut short within a page
                is_direct = set_direct(descriptor, on=False)


def set_direct(descriptor: int, *, on: bool) -> bool:
    """Switches writing past the page cache on or off; returns whether it is on."""
    direct = getattr(os, "O_DIRECT", None)
    if fcntl is None or direct is None:
        return False
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | direct if on else flags & ~direct)
    except OSError:  # a file system without it, such as one in memory
        return False
    return on
