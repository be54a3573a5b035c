"""The referee: a duel end to end, its arithmetic, and its gates."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "duel.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_a_duel_of_one_network_with_itself(script, finished_run, workplace, tmp_path, capsys):
    ours = np.ones(200_000_000)  # 1.6 GB, which are none of the contestants'
    (volume, *_) = sorted((workplace / "data").rglob("img*.nii.gz"))
    script["main"]([
        "--runs", f"a={finished_run}", f"b={finished_run}", "--settings", "b=inferer=fast", "--input", str(volume),
        "--rounds", "2", "--agreement", "0.999", "--threads", "1", "--output", str(tmp_path / "duel"),
    ])  # fmt: skip
    found = json.loads((tmp_path / "duel" / "duel.json").read_text())
    a, b = found["contestants"]["a"], found["contestants"]["b"]
    assert a["weights"] == b["weights"]
    assert "inferer=fast" in b["arguments"]
    for own in (a, b):
        assert len(own["seconds"]) == len(own["process"]) == len(own["peak_mb"]) == 2, "the warm-up is left out"
        assert all(inner < whole for inner, whole in zip(own["seconds"], own["process"], strict=True))
        assert 100 < max(own["peak_mb"]) < ours.nbytes / 2**20
    assert a["agreement"] == 1
    so_far = json.loads((tmp_path / "duel" / "rounds.json").read_text())
    assert so_far["a"]["seconds"] == a["seconds"], "what an ended duel would have left"
    out, progress = capsys.readouterr()
    assert progress.count("round ") == 2
    lines = out.strip().splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| contestant", "| ---", "| a", "| b"]
    assert lines[2].split(" | ")[4:6] == ["1.00", "1.00 to 1.00"]


def test_dice_over_the_labels_of_the_truth(script):
    truth = np.array([0, 1, 1, 2, 2, 2])
    labels = np.array([1, 1, 1, 0, 3, 0])
    # label 1: 2 * 2 / (3 + 2); label 2 is missed; label 3 is not in the truth
    assert script["mean_dice"](labels, truth) == pytest.approx(0.4)
    quality = script["judge"]({"a": truth, "b": labels}, truth=truth)
    assert quality == {
        "a": {"agreement": 1, "dice": 1},
        "b": {"agreement": pytest.approx(2 / 6), "dice": pytest.approx(0.4)},
    }


def test_gates(script):
    missed = script["missed_gates"]
    quality = {"fast": {"agreement": 1.0, "dice": 0.795}, "dense": {"agreement": 0.998, "dice": 0.8}}
    assert missed(quality, agreement=None, margin=0.005001) == []
    (told,) = missed(quality, agreement=0.999, margin=0.005001)
    assert told.startswith("dense agrees with fast on 99.8")
    (told,) = missed(quality, agreement=None, margin=0.004)
    assert told == "fast has Dice 0.7950, less than 0.7960"


def test_the_interval_of_the_median(script):
    rng = np.random.default_rng(0)
    assert script["interval"]([2.0] * 5, rng=rng) == (2.0, 2.0)
    low, high = script["interval"]([1.0, 2.0, 3.0, 4.0, 5.0], rng=rng)
    assert 1 <= low < 3 < high <= 5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--runs", "a=RUN", "--settings", "b=inferer=fast"], "--settings b=...: no contestant has this name"),
        (["--runs", "fast"], "--runs fast: give NAME=VALUE"),
        (["--runs", "fast=RUN", "--contestants", "fast"], "both have the name fast"),
    ],
)
def test_mistakes_end_before_the_first_round(script, tmp_path, arguments, told):
    with pytest.raises(SystemExit, match=told.replace(".", r"\.")):
        script["main"]([*arguments, "--input", str(tmp_path / "ct.nii.gz"), "--output", str(tmp_path)])


def test_a_missing_package_is_named_before_anything_is_built(script, monkeypatch):
    monkeypatch.setitem(script["PACKAGES"], "nnunet", ("no_such_package", "pip install it"))
    with pytest.raises(Exception, match=r"nnunet needs the package no_such_package: pip install it"):
        script["check_packages"](["fast", "nnunet"])


def test_phantoms_of_other_sizes_are_other_files(script, tmp_path):
    small = script["phantom"](tmp_path, shape=(16, 16, 8), voxel_size=(5.0, 5.0, 8.0))
    other = script["phantom"](tmp_path, shape=(20, 16, 8), voxel_size=(5.0, 5.0, 8.0))
    assert script["read_labels"](small).shape == (16, 16, 8)
    assert script["read_labels"](other).shape == (20, 16, 8)
