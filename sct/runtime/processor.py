"""Features of this machine's CPU, and where shortcuts for CPUs may be used."""

import functools
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

# oneDNN's names of instruction sets (ONEDNN_MAX_CPU_ISA); each set includes all earlier ones
INSTRUCTION_SETS = (
    "sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni", "avx512_core_bf16",
    "avx512_core_fp16", "avx512_core_amx", "avx512_core_amx_fp16",
)  # fmt: skip
# start of a feature's name in the system -> the first set that has the feature; the longest matching start counts
FIRST_SET = {
    "avx": "avx",
    "avx2": "avx2",
    "fma": "avx2",
    "avx_vnni": "avx2_vnni",
    "avx_ne_convert": "avx2_vnni_2",
    "avx512": "avx512_core",
    "avx512_vnni": "avx512_core_vnni",
    "avx512_bf16": "avx512_core_bf16",
    "avx512_fp16": "avx512_core_fp16",
    "amx": "avx512_core_amx",
    "amx_fp16": "avx512_core_amx_fp16",
}
# ATEN_CPU_CAPABILITY -> the largest set that ATen's kernels then use
ATEN_SETS = {"default": "sse41", "avx2": "avx2"}
# features for matrix products in bf16: x86 vectors, x86 tiles, ARM
BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@functools.cache
def processor_features() -> frozenset[str]:
    """The features of this machine's CPU that torch's kernels use; empty if the system does not list them."""
    return usable_features(cpu_flags(Path("/proc/cpuinfo")), os.environ)


def has_tiles() -> bool:
    """Whether bf16 products use tiles (AMX). Products are then so fast that all other operations matter for speed."""
    return "amx_bf16" in processor_features()


def multiplies_bf16() -> bool:
    """Whether torch computes bf16 products with bf16 instructions; this needs oneDNN, which some builds lack."""
    return bool(BF16 & processor_features()) and torch.backends.mkldnn.is_available()


def cpu_flags(cpuinfo: Path) -> set[str]:
    """The features of the first processor (x86 and ARM): names as in Linux, on other systems as in torch >= 2.11."""
    if not cpuinfo.exists():
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return {name for name, value in capabilities.items() if value is True}
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def usable_features(flags: Collection[str], environment: Mapping[str, str]) -> frozenset[str]:
    """The features that both oneDNN and ATen may use under the variables of an environment.

    oneDNN computes convolutions and matrix products; ONEDNN_MAX_CPU_ISA limits it. ATen computes all else;
    ATEN_CPU_CAPABILITY limits it. Unknown values set no limit, neither in these libraries nor here.
    """
    # oneDNN still reads its former name
    onednn = environment.get("ONEDNN_MAX_CPU_ISA", environment.get("DNNL_MAX_CPU_ISA", "")).lower()
    if onednn.startswith("avx10") and "amx" not in onednn:
        onednn = "avx512_core_fp16"  # and more, but no tiles
    limits = [onednn, ATEN_SETS.get(environment.get("ATEN_CPU_CAPABILITY", ""), "")]
    limit = min((INSTRUCTION_SETS.index(name) for name in limits if name in INSTRUCTION_SETS), default=None)
    return frozenset(flag for flag in flags if limit is None or set_number(flag) <= limit)


def set_number(flag: str) -> int:
    """The index in `INSTRUCTION_SETS` of the first set with a feature; 0 for a feature that no set lists."""
    prefixes = [prefix for prefix in FIRST_SET if flag.startswith(prefix)]
    return INSTRUCTION_SETS.index(FIRST_SET[max(prefixes, key=len)]) if prefixes else 0


def computed_in(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution or product on the CPU computes x: autocast's dtype if autocast is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def infers_here(x: Tensor) -> bool:
    """Whether operations on x run eagerly, on the CPU and without gradients.

    False while torch compiles, exports or traces (as `sct.profiling.macs` does to count operations): a graph must
    show the network as it is defined, and must be valid on other machines.
    """
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )
