"""The benchmark of inference compares ways that give the same labels, and prints what they cost."""

import runpy
from pathlib import Path

import numpy as np
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_inference.py"
LITTLE = [
    "--shape",
    "28",
    "24",
    "20",
    "--source",
    "40",
    "30",
    "12",
    "--window",
    "12",
    "--classes",
    "4",
    "--repeats",
    "1",
]


@torch.inference_mode()
def test_all_ways_give_the_same_labels():
    script = runpy.run_path(str(SCRIPT))
    options = script["parse"](LITTLE)
    volume = script["make_volume"](options)
    times, labels = script["measure"](options, volume)
    assert {name.partition(":")[0] for name in times} == {"whole", "stitching, a window", "deciding", "regridding"}
    assert len(np.unique(labels["reference"])) == 4
    for name in ("fast", "fast, float16", "fast, bfloat16", "borders"):
        assert (labels[name] == labels["all voxels" if name == "borders" else "reference"]).mean() > 0.99, name
    lines = script["table"](times).splitlines()
    assert len(lines) == len(times) + 1
    assert lines[1].split()[-1] == "1.00"


def test_peak_memory_is_that_of_one_prediction():
    script = runpy.run_path(str(SCRIPT))
    peak = script["peak_of"]("fast", script["parse"](LITTLE))
    assert peak is None or peak >= 0
