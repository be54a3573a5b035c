"""What the processor can do, what of it the environment allows, and where its shortcuts are taken."""

import pytest
import torch

from sct.runtime import processor
from sct.runtime.processor import cpu_flags, infers_here, multiplies_bf16, processor_features, usable_features

# of a Xeon with tiles; what is neither vectors nor tiles stays under every limit
SAPPHIRE = {
    "aes", "sse4_1", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [("flags\t\t: fpu avx512_bf16 sse", {"fpu", "avx512_bf16", "sse"}), ("Features\t: fp bf16", {"fp", "bf16"})],
)
def test_what_the_system_says_of_the_processor(tmp_path, line, expected):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{line}\nprocessor\t: 1\nflags\t\t: other\n")
    assert cpu_flags(file) == expected


def test_systems_without_that_file_are_asked_through_torch(tmp_path, monkeypatch):
    told = {"avx2": True, "avx512_bf16": False, "l1d_cache_size": 32768, "architecture": "x86_64"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert cpu_flags(tmp_path / "none") == {"avx2"}
    # torch 2.10 does not tell
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert cpu_flags(tmp_path / "none") == set()


@pytest.mark.parametrize(
    ("environment", "lost"),
    [
        ({}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "ALL"}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "AVX10_1_512_AMX"}, set()),
        ({"ONEDNN_MAX_CPU_ISA": "AVX10_1_512"}, {"amx_tile", "amx_bf16", "amx_int8"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"}, {"amx_tile", "amx_bf16", "amx_int8"}),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core_bf16"}, {"amx_tile", "amx_bf16", "amx_int8", "avx512_fp16"}),
        (
            {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
            {"amx_tile", "amx_bf16", "amx_int8", "avx512_fp16", "avx512_bf16"},
        ),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, SAPPHIRE - {"aes", "sse4_1", "avx", "avx2", "fma", "avx_vnni"}),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, SAPPHIRE - {"aes", "sse4_1", "avx", "avx2", "fma"}),
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, SAPPHIRE - {"aes", "sse4_1", "avx", "avx2", "fma"}),
        ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, SAPPHIRE - {"aes", "sse4_1"}),
        ({"ATEN_CPU_CAPABILITY": "avx512"}, set()),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, SAPPHIRE - {"aes", "sse4_1", "avx", "avx2", "fma"}),
        ({"ATEN_CPU_CAPABILITY": "default"}, SAPPHIRE - {"aes", "sse4_1"}),
        # the stricter one of both
        (
            {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "ATEN_CPU_CAPABILITY": "avx2"},
            SAPPHIRE - {"aes", "sse4_1", "avx", "avx2", "fma"},
        ),
    ],
)
def test_features_under_the_limits_of_an_environment(environment, lost):
    assert SAPPHIRE - usable_features(SAPPHIRE, environment) == lost


def test_arm_has_other_names():
    flags = {"fp", "asimd", "bf16"}
    assert usable_features(flags, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "default"}) == flags


@pytest.mark.parametrize(
    ("features", "has_onednn", "expected"),
    [
        ({"avx2"}, True, False),
        ({"avx2", "avx512_bf16"}, True, True),
        ({"amx_bf16"}, True, True),
        ({"asimd", "bf16"}, True, True),
        ({"asimd", "bf16"}, False, False),
    ],
)
def test_bf16_needs_instructions_and_onednn(monkeypatch, features, has_onednn, expected):
    monkeypatch.setattr(processor, "processor_features", lambda: frozenset(features))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    assert multiplies_bf16() is expected


def test_the_environment_of_a_process_counts(monkeypatch):
    """So a machine with AVX2 alone is imitated on one with tiles."""
    monkeypatch.setattr(processor, "cpu_flags", lambda cpuinfo: SAPPHIRE)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    assert "amx_bf16" in processor_features.__wrapped__()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    features = processor_features.__wrapped__()
    assert "avx2" in features
    assert not [name for name in features if name.startswith(("avx512", "amx"))]


def test_shortcuts_are_for_what_is_computed_at_once_without_gradients():
    x, seen = torch.zeros(1), []

    def network(x):
        seen.append(infers_here(x))
        return x + 1

    assert not infers_here(x)
    with torch.no_grad():
        assert infers_here(x)
        assert not infers_here(x.to("meta"))
        torch.jit.trace(network, x, check_trace=False)
        assert torch.compile(lambda x: x + infers_here(x), backend="eager", fullgraph=True)(x) == 0
    assert seen == [False]
