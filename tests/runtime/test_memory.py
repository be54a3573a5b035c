"""Freed memory stays with the process, where glibc is asked to keep it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sct.runtime import memory

# what a network does, without one: blocks of tens of megabytes, written to and freed, again and again
FAULTS = """
import ctypes, resource
from sct.runtime.memory import keep_large_blocks, tune_allocator
if {keep}:
    assert tune_allocator()
    assert {size} <= 24 or keep_large_blocks()
libc, size = ctypes.CDLL(None), {size} * 2**20
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def layer():
    blocks = [libc.malloc(size) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        libc.free(block)
for _ in range(3):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(*, keep, size):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(keep=keep, size=size)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("size", [20, 100])
def test_freed_memory_is_used_again(size):
    assert count_faults(keep=True, size=size) < 1000 < 10_000 < count_faults(keep=False, size=size)


PAGES = """
from pathlib import Path
from sct.runtime.memory import tune_allocator
tune_allocator()
import torch
kept = torch.ones(2**26)
huge = [line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("AnonHuge")]
print(huge[0].split()[1])
"""


def has_huge_pages() -> bool:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return enabled.exists() and "[never]" not in enabled.read_text()


@pytest.mark.skipif(not has_huge_pages(), reason="a system without huge pages on request")
@pytest.mark.parametrize("asked", [None, "0"])
def test_large_tensors_ask_for_huge_pages_unless_told_not_to(asked):
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": asked or ""}
    if asked is None:
        del environment["THP_MEM_ALLOC_ENABLE"]
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True, env=environment)
    always = "[always]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    # of 256 MB; a full machine may not have so much in large pieces
    assert (int(done.stdout) > 2**15) == (asked is None or always)


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setenv(memory.HUGE_PAGES, "0")  # and not for all tests after this
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not memory.tune_allocator()
    assert not memory.keep_large_blocks()
