"""The referee: a duel end to end, its arithmetic, and its gates."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sct.config.check import build
from sct.config.command import compose_config
from sct.errors import UserError
from sct.runs.build import build_segmenter

SCRIPT = Path(__file__).parents[2] / "scripts" / "duel.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield runpy.run_path(str(SCRIPT))


@pytest.fixture
def contestants(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import contestants

    return contestants


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


def test_a_missing_package_is_named_before_anything_is_built(contestants, monkeypatch):
    monkeypatch.setitem(contestants.REMEDIES, "no_such_package", "pip install it")
    needy = replace(contestants.CONTESTANTS["nnunet"], packages=("no_such_package",))
    monkeypatch.setitem(contestants.CONTESTANTS, "nnunet", needy)
    with pytest.raises(UserError, match=r"nnunet needs the package no_such_package: pip install it"):
        contestants.check_packages(["fast", "nnunet"])


def test_every_rival_is_there_in_openvino_too(contestants):
    for name, rival in contestants.RIVALS.items():
        graph = contestants.CONTESTANTS[f"openvino_{name}"]
        assert (graph.network, graph.export) == (rival.network, "openvino")
        assert "precision=bf16" in graph.predict
        assert set(graph.packages) == {*rival.packages, "openvino"}
    assert set(contestants.USUAL) <= set(contestants.CONTESTANTS)


@pytest.mark.parametrize("name", ["fast_3mm", "segresnet_3mm"])
def test_networks_of_many_classes_at_3_mm(contestants, name):
    """As small as they get; MONAI's network with the settings of its bundle."""
    contestant = contestants.with_classes(contestants.CONTESTANTS[name], 104)
    small = {"fast_3mm": ["encoder.dim=24", "encoder.num_heads=2", "completion.dim=24"], "segresnet_3mm": []}[name]
    cfg = compose_config("train", overrides=[*contestant.network, *small, "data.roi_size=[32,32,32]"])
    data = build(cfg.data, key="data")
    assert data.outputs.names == tuple(f"class_{number}" for number in range(1, 105))
    assert data.spacing == [3, 3, 3]
    # the preprocessing of the data set whose classes are replaced
    assert data.crop_above == 0.0
    network = build_segmenter(cfg, data=data)
    if name == "segresnet_3mm":
        monai = network.decoder.network
        assert (monai.init_filters, monai.blocks_down, monai.blocks_up) == (32, [1, 2, 2, 4], [1, 1, 1])
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 1, 32, 32, 32)).shape == (1, 105, 32, 32, 32)


def test_phantoms_of_other_sizes_are_other_files(script, tmp_path):
    small = script["phantom"](tmp_path, shape=(16, 16, 8), voxel_size=(5.0, 5.0, 8.0))
    other = script["phantom"](tmp_path, shape=(20, 16, 8), voxel_size=(5.0, 5.0, 8.0))
    assert script["read_labels"](small).shape == (16, 16, 8)
    assert script["read_labels"](other).shape == (20, 16, 8)
