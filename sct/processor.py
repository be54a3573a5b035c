"""What the processor at hand can do, and where shortcuts that it alone profits from may be taken."""

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor


@functools.cache
def processor_features() -> frozenset[str]:
    """What the system says that this machine's processor can do; empty where it does not say."""
    return frozenset(cpu_features(Path("/proc/cpuinfo")))


def has_tiles() -> bool:
    """Whether bf16 products are computed in tiles (AMX): many times as fast, so that all that is around them counts."""
    return "amx_bf16" in processor_features()


def cpu_features(cpuinfo: Path) -> set[str]:
    """What the system says that the first processor can do (x86 and ARM); empty where it does not say."""
    if platform.system() != "Linux" or not cpuinfo.exists():
        return set()
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def computed_in(x: Tensor) -> torch.dtype:
    """The type that a convolution or product on a processor computes x in: autocast's, where it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def infers_here(x: Tensor) -> bool:
    """Whether x is computed with at once, on a processor and without gradients.

    Not where torch compiles, exports or traces (as `sct.macs` does to count): graphs must show what the network is, and
    hold elsewhere.
    """
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )
