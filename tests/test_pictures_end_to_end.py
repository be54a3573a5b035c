"""A 2-D network on phantom pictures through the commands: what is written scores as what was measured."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import assert_one_message, run_command
from PIL import Image

from sct import predict, profile, train
from sct.data.cases import LabelMap
from sct.data.outputs import Classes
from sct.data.sets.isic import IMAGES, MASKS
from sct.evaluation.metrics import score_case

SCORES = ("dice", "iou", "accuracy", "sensitivity", "specificity")
# of the demo's settings only optimizer and schedule are left
NETWORK = ("+experiment=demo", "+debug=smoke_isic", "encoder=dense", "completion=scatter", "encoder.depth=2")


def network(folder: Path, *, decoder: str) -> list[str]:
    paths = [f"paths.data={folder}/data", f"paths.cache={folder}/cache", f"paths.outputs={folder}/runs"]
    return [*NETWORK, f"decoder={decoder}", "encoder.taps=0", "trainer.tensorboard=false", *paths]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    outcome = run_command(train.main, *network(place, decoder="fcn"), f"run_dir={place}/run")
    assert outcome.status == 0, outcome
    return place / "run"


def test_the_table_has_the_papers_scores(evaluated: Path) -> None:
    (head,) = [line for line in (evaluated / "table.md").read_text().splitlines() if line.startswith("| class")]
    assert [name.strip().lower() for name in head.split("|")[2:7]] == list(SCORES)
    summary = json.loads((evaluated / "summary.json").read_text())
    assert summary["n_cases"] == 2
    assert {*SCORES, "hd95_voxel"} <= set(summary)
    assert "hd95_mm" not in summary


def test_masks_of_the_pictures_size_score_as_measured(evaluated: Path, place: Path) -> None:
    with (evaluated / "cases.csv").open() as file:
        lines = {line["case_id"]: line for line in csv.DictReader(file)}
    assert sorted(lines) == ["ISIC_0000005", "ISIC_0000006"]
    (data,) = (place / "data").iterdir()
    for case, line in lines.items():
        written = Image.open(evaluated / "predictions" / f"{case}_segmentation.png")
        assert written.size == Image.open(data / IMAGES / f"{case}.jpg").size
        pixels, truth = np.asarray(written), np.asarray(Image.open(data / MASKS / f"{case}_segmentation.png"))
        assert set(np.unique(pixels)) <= {0, 255}
        (row,) = score_case(
            (pixels > 0).astype(np.uint8),
            (truth > 0).astype(np.uint8),
            spacing=(1, 1),
            unit="voxel",
            outputs=Classes(LabelMap(("background", "lesion"))),
            case_id=case,
        )
        for name in (*SCORES, "hd95_voxel"):
            assert float(line[name]) == pytest.approx(getattr(row, name)), name
        assert line["hd95_mm"] == ""


def test_prediction_of_a_folder_is_that_of_the_evaluation(
    run: Path, evaluated: Path, place: Path, tmp_path: Path
) -> None:
    (data,) = (place / "data").iterdir()
    inputs = tmp_path / "in"
    inputs.mkdir()
    for case in ("ISIC_0000005", "ISIC_0000006"):
        shutil.copy(data / IMAGES / f"{case}.jpg", inputs / f"{case}.jpg")
    (inputs / "LICENSE.txt").write_text("terms")
    Image.new("RGB", (4, 4)).save(inputs / "ISIC_0000005_superpixels.png")
    outcome = run_command(predict.main, f"ckpt={run}", f"input={inputs}", f"output={tmp_path}/out")
    assert outcome.status == 0, outcome
    written = sorted((tmp_path / "out").glob("*.png"))
    assert [path.name for path in written] == ["ISIC_0000005_segmentation.png", "ISIC_0000006_segmentation.png"]
    for path in written:
        assert path.read_bytes() == (evaluated / "predictions" / path.name).read_bytes()
    (inputs / "ISIC_0000005.jpg").write_bytes(b"no picture")
    outcome = run_command(predict.main, f"ckpt={run}", f"input={inputs}", f"output={tmp_path}/again")
    assert_one_message(outcome, "ISIC_0000005.jpg", "cannot be read as a picture")
    assert [path.name for path in (tmp_path / "again").glob("*.png")] == ["ISIC_0000006_segmentation.png"]


def test_a_folder_without_pictures_says_which_are_expected(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    outcome = run_command(predict.main, f"ckpt={run}", f"input={tmp_path}/in", f"output={tmp_path}/out")
    assert_one_message(outcome, "no picture file", ".jpg or .jpeg or .png")


def test_figures_and_profile(run: Path, evaluated: Path) -> None:
    assert len(list((evaluated / "figures").glob("*.png"))) == 2
    outcome = run_command(profile.main, f"ckpt={run}", "profile.latency=false", "profile.windows=2")
    assert outcome.status == 0, outcome


@pytest.mark.parametrize("encoder", ["stp", "evit"])
def test_sparse_encoders_run_on_pictures(place: Path, tmp_path: Path, encoder: str) -> None:
    settings = (f"encoder={encoder}", "completion=mta", "pruning.blocks=[1,2]", "trainer.max_steps=2")
    outcome = run_command(train.main, *network(place, decoder="unetr_thin"), *settings, f"run_dir={tmp_path}/run")
    assert outcome.status == 0, outcome
