"""How the C library and torch give memory to tensors of a processor."""

import ctypes
import os
import platform
from pathlib import Path

# mallopt's parameters, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
# the largest that it takes; one arena, since every thread's would keep memory of its own
SETTINGS = {M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}
# blocks above are given back as soon as they are free: the largest limit there is, and the smallest in huge pages
KEPT, KEPT_IN_HUGE_PAGES = 32 * 2**20, 2 * 2**20
# torch reads it when the first tensor is made
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def tune_allocator() -> bool:
    """Makes memory for tensors cheap to get; False where the C library is not glibc, whose defaults are made for less.

    A network on a processor frees and asks for tens of megabytes at every layer, and glibc has each given back to the
    system and, on its next use, zeroed page by page: on two cores a sixth of a training step. Tensors of 2 MB and more
    ask for pages of that size instead, unless the environment says THP_MEM_ALLOC_ENABLE=0: a prediction of a whole CT
    takes 0.91 of the time, and giving them back costs no time that could be seen, while those that were kept left holes
    between each other, half as much again as a training step's activations. Where the system has no such pages, freed
    memory stays with the process. Where a process has made a tensor before, the pages are the system's usual ones.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    kept = KEPT_IN_HUGE_PAGES if has_huge_pages() else KEPT
    return set_allocator({**SETTINGS, M_MMAP_THRESHOLD: kept})


def has_huge_pages() -> bool:
    """Whether torch asks for huge pages, and the system gives them."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return os.environ.get(HUGE_PAGES) == "1" and enabled.exists() and "[never]" not in enabled.read_text()


def keep_large_blocks() -> bool:
    """After `tune_allocator`, keeps freed blocks of any size; False where that is not glibc.

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
