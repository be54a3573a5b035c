"""How the C library and torch give memory to tensors of a processor."""

import ctypes
import os
import platform

# mallopt's parameters, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
# Blocks above the second are given back when they are free. At its largest, 32 MB, those of 16 channels of 96^3 voxels
# in bf16 stayed, and the holes between them were a fourth of a training step's activations; below 20 MB, a dense
# network's step takes 1.2 times as long. One arena, since every thread's would keep memory of its own.
SETTINGS = {M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_THRESHOLD: 24 * 2**20, M_ARENA_MAX: 1}
# torch reads it when the first tensor is made
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def tune_allocator() -> bool:
    """Lets this process use freed memory again instead of giving it back at once; False where that is not glibc.

    A network on a processor frees and asks for tens of megabytes at every layer, and glibc has each given back to the
    system and, on its next use, zeroed page by page: on two cores a sixth of a training step. The most that a process
    takes stays about the same, but it keeps it to its end.

    Tensors of 2 MB and more ask the system for pages of that size, unless the environment says THP_MEM_ALLOC_ENABLE=0:
    a prediction of a whole CT takes 0.91 of the time. Where a process has made a tensor before, that has no effect.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    return set_allocator(SETTINGS)


def keep_large_blocks() -> bool:
    """After `tune_allocator`, keeps freed blocks above 24 MB too; False where that is not glibc.

    Of one CT, file to file, this takes another tenth off the time. Of many of different sizes it does not, and they
    leave holes in the memory that is kept: a fifth more at its peak.
    """
    return set_allocator({M_MMAP_MAX: 0})


def set_allocator(settings: dict[int, int]) -> bool:
    """Sets what glibc's malloc can be told."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in settings.items())
