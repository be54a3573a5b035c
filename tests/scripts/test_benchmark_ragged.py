"""The benchmark of ragged sets compares runs that compute the same, and prints what they cost."""

import runpy
from pathlib import Path

import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_ragged.py"
LITTLE = ["--kept", "3", "9", "5", "--tokens", "12", "--dim", "16", "--heads", "2"]


@torch.inference_mode()
def test_packed_padded_and_alone_compute_the_same():
    script = runpy.run_path(str(SCRIPT))
    runs, costs = script["build"](script["parse"](LITTLE))
    results = {name: run() for name, run in runs.items()}
    alone = [x for name, x in results.items() if name.startswith("image")]
    assert [x.shape[1] for x in alone] == [4, 10, 6], "with the class token"
    torch.testing.assert_close(results["packed"], torch.cat(alone, dim=1))
    for padded, x in zip(results["padded, masked"], alone, strict=True):
        torch.testing.assert_close(padded[: x.shape[1]], x[0])
    assert results["dense"].shape == (3, 13, 16)
    # 12 C^2 n + 2 C n^2 in two blocks
    expected = {n: 2 * (12 * 256 * n + 32 * n**2) for n in (4, 10, 6, 13)}
    assert list(costs.values())[:3] == [expected[4], expected[10], expected[6]]
    assert costs["packed"] == expected[4] + expected[10] + expected[6]
    assert costs["dense"] == 3 * expected[13]


def test_the_table_is_printed(capsys):
    runpy.run_path(str(SCRIPT))["main"]([*LITTLE, "--repeats", "1", "--depth", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines[2:8]] == ["image ", "image ", "image ", "packed", "padded", "dense "]
    # dense is the measure of both shares
    assert lines[7].split()[-3:] == ["1.000", "1.000", "1.00"]
