"""What the processor can do, and where its shortcuts are taken."""

import pytest
import torch

from sct.processor import cpu_features, infers_here


@pytest.mark.parametrize(
    ("line", "expected"),
    [("flags\t\t: fpu avx512_bf16 sse", {"fpu", "avx512_bf16", "sse"}), ("Features\t: fp bf16", {"fp", "bf16"})],
)
def test_what_the_system_says_of_the_processor(tmp_path, line, expected):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{line}\nprocessor\t: 1\nflags\t\t: other\n")
    assert cpu_features(file) == expected
    assert cpu_features(tmp_path / "none") == set()


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
