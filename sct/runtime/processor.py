"""What the processor at hand can do, and where shortcuts that it alone profits from may be taken."""

import functools
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

# oneDNN's names of instruction sets (ONEDNN_MAX_CPU_ISA); each has those before it
INSTRUCTION_SETS = (
    "sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni", "avx512_core_bf16",
    "avx512_core_fp16", "avx512_core_amx", "avx512_core_amx_fp16",
)  # fmt: skip
# the first set with a feature, by how the system calls the feature: the longest beginning that fits counts
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
# what ATen's own kernels are held to by ATEN_CPU_CAPABILITY
ATEN_SETS = {"default": "sse41", "avx2": "avx2"}
# instructions for products in bf16: x86 vectors, x86 tiles, ARM
BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@functools.cache
def processor_features() -> frozenset[str]:
    """The features of this machine's processor that torch's kernels use here; empty where the system does not say."""
    return usable_features(cpu_flags(Path("/proc/cpuinfo")), os.environ)


def has_tiles() -> bool:
    """Whether bf16 products are computed in tiles (AMX): many times as fast, so that all that is around them counts."""
    return "amx_bf16" in processor_features()


def multiplies_bf16() -> bool:
    """Whether torch has bf16 products computed by instructions for them: by oneDNN, which not every build has."""
    return bool(BF16 & processor_features()) and torch.backends.mkldnn.is_available()


def cpu_flags(cpuinfo: Path) -> set[str]:
    """The features of the first processor (x86 and ARM) as Linux names them, elsewhere as torch 2.11 and later do."""
    if not cpuinfo.exists():
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return {name for name, value in capabilities.items() if value is True}
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def usable_features(flags: Collection[str], environment: Mapping[str, str]) -> frozenset[str]:
    """Of a processor's features those that both oneDNN and ATen may use under the variables of an environment.

    oneDNN has convolutions and products, and is held by ONEDNN_MAX_CPU_ISA; ATen has the rest, and is held by
    ATEN_CPU_CAPABILITY. Values that they do not know hold nothing, there and here.
    """
    # oneDNN still reads its former name
    onednn = environment.get("ONEDNN_MAX_CPU_ISA", environment.get("DNNL_MAX_CPU_ISA", "")).lower()
    if onednn.startswith("avx10") and "amx" not in onednn:
        onednn = "avx512_core_fp16"  # and more, but no tiles
    held = [onednn, ATEN_SETS.get(environment.get("ATEN_CPU_CAPABILITY", ""), "")]
    limit = min((INSTRUCTION_SETS.index(name) for name in held if name in INSTRUCTION_SETS), default=None)
    return frozenset(flag for flag in flags if limit is None or set_number(flag) <= limit)


def set_number(flag: str) -> int:
    """The place in `INSTRUCTION_SETS` of the first set with a feature; 0 for those that no set is about."""
    beginnings = [beginning for beginning in FIRST_SET if flag.startswith(beginning)]
    return INSTRUCTION_SETS.index(FIRST_SET[max(beginnings, key=len)]) if beginnings else 0


def computed_in(x: Tensor) -> torch.dtype:
    """The type that a convolution or product on a processor computes x in: autocast's, where it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def infers_here(x: Tensor) -> bool:
    """Whether x is computed with at once, on a processor and without gradients.

    Not where torch compiles, exports or traces (as `sct.profiling.macs` does to count): graphs must show what the
    network is, and hold elsewhere.
    """
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )
