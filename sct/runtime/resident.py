"""Resident memory of this process, in MiB, as far as the system tells."""

import ctypes
import gc
import platform
from pathlib import Path

import psutil


def resident_mb() -> float:
    """What the process holds now."""
    return psutil.Process().memory_info().rss / 2**20


def peak_resident_mb() -> float | None:
    """The most that it has held, since it began or since `reset_peak`; None where the system does not tell (macOS)."""
    windows = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if windows is not None:
        return windows / 2**20
    try:  # Linux, of which psutil tells everything but this
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM:")), None)


def reset_peak() -> float | None:
    """Sets the peak back to what the process holds now, and returns it; None where that can't be done."""
    if platform.system() != "Linux":
        return None
    try:
        # the C library keeps freed memory for later: a run that reuses it would seem to need none
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return resident_mb()
