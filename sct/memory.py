"""How the C library keeps memory between two tensors."""

import ctypes
import platform

# mallopt's parameters, from malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# the largest that the first two take; one arena, since every thread's would keep memory of its own
SETTINGS = {M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_THRESHOLD: 32 * 2**20, M_ARENA_MAX: 1}


def keep_freed_memory() -> bool:
    """Lets this process use freed memory again instead of giving it back at once; False where that is not glibc.

    A network on a processor frees and asks for tens of megabytes at every layer, and glibc has each given back to the
    system and, on its next use, zeroed page by page: on two cores a sixth of a training step. The most that a process
    takes stays about the same, but it keeps it to its end.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in SETTINGS.items())
