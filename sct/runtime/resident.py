"""Resident memory of this process, in MiB, where the system reports it, and memory that is free."""

import ctypes
import gc
import platform
from pathlib import Path

import psutil

# where Linux says what the processes of a container may take and have taken
CONTAINER = Path("/sys/fs/cgroup")


def resident_mb() -> float:
    """Resident memory of the process now."""
    return psutil.Process().memory_info().rss / 2**20


def peak_resident_mb() -> float | None:
    """Peak since the start of the process or since `reset_peak`; None if the system does not report it (macOS)."""
    windows = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if windows is not None:
        return windows / 2**20
    try:  # Linux: psutil does not report the peak
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:")), None)


def reset_peak() -> float | None:
    """Sets the peak to the resident memory of now and returns it; None if the system can't do this."""
    if platform.system() != "Linux":
        return None
    try:
        # the C library keeps freed memory for later: a run that reuses this memory would seem to need none
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return resident_mb()


def available_bytes() -> int:
    """Bytes that this process may still take: of the machine, and of the container where it has a limit."""
    free = psutil.virtual_memory().available
    limit, taken, parts = (CONTAINER / f"memory.{name}" for name in ("max", "current", "stat"))
    if not limit.is_file() or not (most := limit.read_text().strip()).isdecimal():
        return free
    # what was read from files is given back when it is needed
    cached = next(int(line.split()[1]) for line in parts.read_text().splitlines() if line.startswith("inactive_file "))
    return min(free, int(most) - int(taken.read_text()) + cached)
