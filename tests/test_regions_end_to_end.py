"""Overlapping regions through the commands, on tiny phantom tumours: names, scores, files and refusals."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import assert_one_message, run_command
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sct import predict, profile, train
from sct.config.check import build
from sct.config.command import compose_config
from sct.evaluation.metrics import score_case

NETWORK = ("+experiment=brats_small_stp_mta", "+debug=smoke_brats")
REGIONS = ["WT", "TC", "ET"]


def network(folder: Path) -> list[str]:
    paths = [f"paths.data={folder}/data", f"paths.cache={folder}/cache", f"paths.outputs={folder}/runs"]
    return [*NETWORK, "trainer.tensorboard=false", *paths]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("regions")


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    settings = ("trainer.tensorboard=true", "trainer.best_metric=val/dice/ET", f"run_dir={place}/run")
    outcome = run_command(train.main, *network(place), "+data.class_groups.inner=[TC,ET]", *settings)
    assert outcome.status == 0, outcome
    return place / "run"


def image_of(place: Path) -> Path:
    """The one test case, the last of the set."""
    return sorted((place / "data").rglob("imagesTr/*.nii.gz"))[-1]


def test_regions_are_what_is_measured(run: Path, evaluated: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss_dice", "train/loss_bce"} <= set(rows[0])
    assert {name for row in rows for name in row if name.startswith("val/")} == {
        "val/dice/mean", *(f"val/dice/{name}" for name in REGIONS)
    }  # fmt: skip
    lines = (evaluated / "table.md").read_text().splitlines()
    (head,) = [line for line in lines if line.startswith("| class")]
    assert "HD95 (mm)" in head
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| ") and line != head]
    assert names[1:] == [*REGIONS, "mean inner", "**mean**"]
    with (evaluated / "cases.csv").open() as file:
        assert [line["class"] for line in csv.DictReader(file)] == REGIONS


def test_the_written_labels_score_as_in_memory(evaluated: Path, place: Path) -> None:
    path = image_of(place)
    written, source = nib.load(evaluated / "predictions" / path.name), nib.load(path)
    truth = nib.load(path.parents[1] / "labelsTr" / path.name)
    labels = np.asarray(written.dataobj)
    assert written.shape == source.shape[:3]
    np.testing.assert_array_equal(written.affine, source.affine)
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    assert len(np.unique(labels)) > 1, "the scores below would say nothing"
    data = build(compose_config("train", overrides=network(place)).data, key="data")
    summary = json.loads((evaluated / "summary.json").read_text())
    rows = score_case(
        labels, np.asarray(truth.dataobj), outputs=data.outputs, spacing=source.header.get_zooms()[:3], case_id="again"
    )
    assert [row.class_name for row in rows] == REGIONS
    for row in rows:
        assert summary["dice"]["per_class"][row.class_name] == pytest.approx(row.dice)
        assert summary["hd95_mm"]["per_class"][row.class_name] == pytest.approx(row.hd95_mm)
    # by unions of values, not by the code of the scores
    for name, values in (("WT", [1, 2, 3]), ("TC", [2, 3]), ("ET", [3])):
        a, b = np.isin(labels, values), np.isin(np.asarray(truth.dataobj), values)
        assert summary["dice"]["per_class"][name] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_prediction_figures_and_overlay(run: Path, evaluated: Path, place: Path, tmp_path: Path) -> None:
    path = image_of(place)
    outcome = run_command(predict.main, f"ckpt={run}", f"input={path}", f"output={tmp_path}")
    assert outcome.status == 0, outcome
    assert (tmp_path / path.name).read_bytes() == (evaluated / "predictions" / path.name).read_bytes()
    (figure,) = (evaluated / "figures").glob("*.png")
    assert len(np.unique(np.asarray(Image.open(figure)))) > 20
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert "val/dice/WT" in events.Tags()["scalars"]
    assert "val/overlay" in events.Tags()["images"]


def test_a_twin_is_taught_and_the_classes_are_an_option(run: Path, place: Path, tmp_path: Path) -> None:
    dense = ("encoder=dense", "completion=scatter", "encoder.taps=2", "trainer.max_steps=1")
    taught = (f"loss.teacher={run}", f"run_dir={tmp_path}/taught")
    outcome = run_command(train.main, *network(place), *dense, *taught)
    assert outcome.status == 0, outcome
    row = json.loads((tmp_path / "taught" / "metrics.jsonl").read_text().splitlines()[0])
    assert row["train/loss_distill"] > 0
    classes = ("data.regions=null", "loss=dice_ce", f"run_dir={tmp_path}/classes")
    outcome = run_command(train.main, *network(place), *dense, *classes)
    assert outcome.status == 0, outcome
    assert "val/dice/edema" in (tmp_path / "classes" / "metrics.jsonl").read_text()
    outcome = run_command(train.main, *network(place), *dense, *classes[:2], *taught[:1], f"run_dir={tmp_path}/other")
    assert_one_message(outcome, "other outputs (WT, TC, ET)", "edema")


def test_early_exits_of_regions_and_profile(place: Path, tmp_path: Path) -> None:
    exits = ("encoder=dtop", "encoder.reducer.head=fcn", "encoder.reducer.p0=0.5", "completion=scatter", "decoder=fcn")
    settings = (*exits, "pruning.blocks=[2,4]", "encoder.reducer.context=average", "encoder.taps=0")
    outcome = run_command(train.main, *network(place), *settings, f"run_dir={tmp_path}/run")
    assert outcome.status == 0, outcome
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["train/loss_early"] > 0
    assert rows[0]["tokens/most_1"] <= 4, "all are sure to 0.5 and leave; of each group goes on a mean"
    outcome = run_command(profile.main, f"ckpt={tmp_path}/run", "profile.repeats=1", "profile.warmup=0")
    assert outcome.status == 0, outcome


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["loss=dice_ce"], ["DiceCE", "softmax", "WT, TC, ET", "loss=dice_bce"]),
        (["data.regions=null"], ["DiceBCE", "sigmoid", "edema", "loss=dice_ce"]),
        (["decoder=atm", "completion=scatter"], ["decoder=atm", "overlapping regions"]),
        (["encoder=dtop", "encoder.taps=0", "decoder=fcn", "completion=scatter"], ["encoder.reducer.head=fcn"]),
        (["data.regions.ET=[4]"], ["data.regions.ET=[4]", "3 enhancing tumour"]),
        (["+data.class_groups.all=[WT,edema]"], ["data.class_groups.all", "edema", "WT, TC, ET"]),
        (["trainer.best_metric=val/dice/edema"], ["val/dice/edema"]),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_start(place: Path, tmp_path: Path, settings: list, words: list) -> None:
    outcome = run_command(train.main, *network(place), *settings, f"run_dir={tmp_path}/run")
    assert_one_message(outcome, *words)
    assert not (tmp_path / "run").exists()
