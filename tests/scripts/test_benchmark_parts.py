"""The benchmark of windows: a small one end to end, and its table."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_parts.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_a_small_benchmark(script, smoke, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(script["benchmark"].__globals__, "tune_allocator", lambda: None)  # for this whole process
    sparse = " ".join(smoke)
    script["main"]([
        "--contestants", f"a={sparse}", f"unet={sparse} model=monai_unet", "--sizes", "16", "32", "--batches", "1", "2",
        "--precision", "fp32", "--repeats", "2", "--warmup", "1", "--device", "cpu", "--output", str(tmp_path),
    ])  # fmt: skip
    record = json.loads((tmp_path / "parts.json").read_text())
    assert list(record["found"]) == ["16^3 x 1", "16^3 x 2", "32^3 x 1", "32^3 x 2"]
    for setting in record["found"].values():
        for contestant in setting.values():
            assert {name: len(times) for name, times in contestant["ms"].items()} == dict.fromkeys(
                ("total", "encoder", "completion", "decoder"), 2
            )
    assert "| 32^3 | 2 | unet | " in capsys.readouterr().out


def test_ratios_are_of_the_first_turn_by_turn(script):
    def times(*total):
        return {"total": list(total), "encoder": [1.0], "completion": [2.0], "decoder": [3.0]}

    found = {
        "96^3 x 4": {
            "a": {"ms": times(1.0, 2.0, 1.0), "memory_mb": 7.0},
            "b": {"ms": times(4.0, 6.0, 5.0), "memory_mb": None},
        }
    }
    lines = script["table"](found).splitlines()
    assert lines[2] == "| 96^3 | 4 | a | 1.0 | 4000.0 | 1.0 | 2.0 | 3.0 | 7 | 1.00 | 1.00 to 1.00 |"
    assert lines[3] == "| 96^3 | 4 | b | 5.0 | 800.0 | 1.0 | 2.0 | 3.0 | unknown | 4.00 | 3.00 to 5.00 |"


def test_memory_on_a_device_leaves_other_networks_out(script, monkeypatch):
    network = nn.Linear(512, 512, bias=False)  # 1 MiB
    image = SimpleNamespace(nbytes=2**20, device=torch.device("cuda"))
    # 70 MiB are held by all networks together, and at the peak there are 100
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 70 * 2**20)
    monkeypatch.setitem(script["memory_mb"].__globals__, "peak_memory_mb", lambda step, device: 100.0)
    assert script["memory_mb"](SimpleNamespace(image=image, segmenter=network, step=None)) == 32


@pytest.mark.parametrize(
    ("option", "told"), [(["--device", "tpu"], "device=tpu"), (["--contestants", "a"], "--contestants a: ")]
)
def test_mistakes_are_told_in_a_line(script, tmp_path, option, told):
    with pytest.raises(SystemExit, match=told):
        script["main"]([*option, "--output", str(tmp_path)])
