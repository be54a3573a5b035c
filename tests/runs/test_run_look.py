"""The first look of a run: calibrated on validation cases, then used wherever the run predicts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_one_message, run_command
from predicted_maps import labels_of, predicted

import sct
from sct import eval as evaluation
from sct import export, predict, train, verify
from sct.data.phantoms.phantom import ORGANS
from sct.inference.look import Look, left_out, miss_bound
from sct.runs import card
from sct.runs.look import FILE, bounds, organ_counts, write_look
from sct.runs.run import Run

NAMES = [organ.name for organ in ORGANS]


@pytest.fixture(scope="module")
def looking(smoke: list[str], workplace: Path) -> Path:
    """The folder of a finished training with a first look; only to be read."""
    folder = workplace / "looking"
    outcome = run_command(train.main, *smoke, "look=first", f"run_dir={folder}")
    assert outcome.status == 0, outcome
    return folder


@pytest.fixture
def copy(looking: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(looking, tmp_path / "run"))


@pytest.fixture(scope="module")
def image(workplace: Path, looking: Path) -> Path:
    return sorted((workplace / "data/phantom_smoke").rglob("img/*.nii.gz"))[-1]


def opened(run: Path, **settings: str) -> Run:
    return sct.load(run, device="cpu", **settings)


def sharpest(run: Path, image: Path) -> Look:
    """A look to which one patch of an image is worth predicting: one window of the image's four."""
    run = opened(run, first_look="none")
    volume = run.data.load_case(next(case for case in run.data.cases("test") if case.image.name == image.name))
    assert run.network.look is not None
    return Look(run.network.look.scan(volume.image, device=torch.device("cpu")).max().item() - 1e-6, 0)


@pytest.fixture
def by_hand(copy: Path, image: Path) -> Path:
    """A run with a look that somebody wrote."""
    write_look(copy, sharpest(copy, image).settings())
    return copy


def test_the_network_trains_as_without_it(looking, finished_run):
    plain, beside = (opened(run).network.state_dict() for run in (finished_run, looking))
    assert all(torch.equal(beside[name], value) for name, value in plain.items())
    rows = [json.loads(line) for line in (looking / "metrics.jsonl").read_text().splitlines()]
    assert all(row["train/loss_look"] > 0 for row in rows if "train/loss" in row)


def test_every_command_uses_what_was_calibrated(looking, by_hand, image, tmp_path):
    raw = predicted(looking, image, tmp_path / "raw")
    seen = opened(by_hand).predict(image, return_depth=True)
    assert seen.view is not None
    assert (seen.view.windows, seen.view.all_windows, len(seen.view.boxes)) == (1, 4, 1)
    assert (seen.labels != raw).any(), "the comparison below would say nothing"
    np.testing.assert_array_equal(predicted(by_hand, image, tmp_path / "predict"), seen.labels)
    np.testing.assert_array_equal(predicted(by_hand, image, tmp_path / "none", "first_look=none"), raw)
    np.testing.assert_array_equal(opened(by_hand, first_look="none").predict(image).labels, raw)
    # one patch of 8^3 of a scan of 24 x 24 x 16 voxels
    assert 0 < (seen.depth > 0).sum() <= 8**3
    assert (seen.labels > 0).sum() <= 8**3
    outcome = run_command(evaluation.main, f"ckpt={by_hand}", "figures=0")
    assert outcome.status == 0, outcome.err
    (written,) = (by_hand / "eval/test/predictions").iterdir()
    np.testing.assert_array_equal(labels_of(written), seen.labels)
    result = card.read_card(by_hand / "eval/test")
    assert result["look"] == opened(by_hand).look.settings()
    assert result["evaluation"]["first_look"] == "calibrated"
    meta = result["scores"]["meta"]
    assert (meta["look/windows"], meta["look/all_windows"], meta["look/patches"]) == (1, 4, 18)
    # the scores are found again, with the same look alone
    confirmed = run_command(verify.main, f"ckpt={by_hand}")
    assert confirmed.status == 0, confirmed.err
    write_look(by_hand, Look(-99.0, 0).settings())
    assert_one_message(run_command(verify.main, f"ckpt={by_hand}"), "\n  look.threshold", "on the card")
    # without it, it is another evaluation
    outcome = run_command(evaluation.main, f"ckpt={by_hand}", "first_look=none")
    assert_one_message(outcome, "first_look differ from the run's", "output=FOLDER")


def test_what_is_left_out_is_on_the_record_of_each_case(by_hand, image, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(image, folder)
    arguments = (f"ckpt={by_hand}", f"input={folder}", f"output={tmp_path}/out")
    outcome = run_command(predict.main, *arguments)
    assert outcome.status == 0, outcome.err
    assert "1 of 18 patches are worth predicting: 1 of 4 windows, 6% of the voxels" in outcome.out
    (record,) = (tmp_path / "out/.predicted/records").iterdir()
    assert json.loads(record.read_text())["result"]["look"] == {
        "boxes": 1,
        "patches": 18,
        "worth": 1,
        "voxels": 8**3,
        "all_voxels": 24 * 24 * 16,
        "windows": 1,
        "all_windows": 4,
    }
    # with another look the label maps are others
    assert "1 were there already" in run_command(predict.main, *arguments).out
    write_look(by_hand, Look(-99.0, 0).settings())
    assert "1 predicted now" in run_command(predict.main, *arguments).out


def test_it_is_calibrated_on_validation_cases(copy, image, tmp_path):
    said = run_command(predict.main, f"ckpt={copy}", f"input={image}", f"output={tmp_path}/before")
    assert "is not calibrated. Do so with  python -m sct.eval" in said.out
    outcome = run_command(evaluation.main, f"ckpt={copy}", "first_look=calibrate", "first_look_margin=0", "figures=0")
    assert outcome.status == 0, outcome.err
    content = json.loads((copy / FILE).read_text())
    result = card.read_card(copy / "eval/test")
    assert content["cases"] == result["split"]["val"]
    assert (content["keep"], content["margin"], content["weights"]) == (0.999, 0, result["weights"])
    assert set(content["organs"]) == set(NAMES)
    for name, row in content["organs"].items():
        assert row["left_out_most"] <= 1 - 0.999
        assert row["bound"] == pytest.approx(miss_bound(1))
        assert f"| {name} | 1 | " in outcome.out
    assert result["look"] == {"threshold": content["threshold"], "margin": 0}
    # of other weights nothing is known
    write_look(copy, {**content, "weights": "0" * 64})
    outcome = run_command(predict.main, f"ckpt={copy}", f"input={image}", f"output={tmp_path}/after")
    assert outcome.status == 0, outcome.err
    assert "is for other weights of this run and is not used" in outcome.out


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_what_is_calibrated_is_used_and_read_again(copy, keep):
    run = opened(copy)
    look = run.calibrate_look(keep=keep, margin=0)
    assert run.look == look == opened(copy).look
    content = json.loads((copy / FILE).read_text())
    assert content["keep"] == keep
    assert all(row["left_out_most"] <= 1 - keep for row in content["organs"].values())
    # a higher threshold would leave out more than that of some organ
    (case,) = run.data.cases("val")
    volume = run.data.load_case(case)
    logits = run.network.look.scan(volume.image, device=run.device).flatten()
    counts = organ_counts(volume, first=run.network.look, outputs=run.data.outputs)
    higher = logits[logits >= look.threshold].min().item() + 1e-6
    missed = left_out(logits, counts, threshold=higher)
    assert missed.nan_to_num(0).max() > 1 - keep


def test_the_bound_counts_the_cases_that_have_an_organ():
    missed = torch.tensor([[0.0, torch.nan, torch.nan], [0.25, 0.5, torch.nan]])
    found = bounds(missed, names=["liver", "spleen", "aorta"])
    assert found == {
        "liver": {"cases": 2, "left_out": 0.125, "left_out_most": 0.25, "bound": miss_bound(2)},
        "spleen": {"cases": 1, "left_out": 0.5, "left_out_most": 0.5, "bound": miss_bound(1)},
    }


def test_a_run_without_a_first_look_has_none_to_calibrate(run_copy, looking):
    outcome = run_command(evaluation.main, f"ckpt={run_copy}", "first_look=calibrate")
    assert_one_message(outcome, "has no first look", "look=first", "skip_below")
    write_look(run_copy, {"threshold": 0.0, "margin": 1})
    outcome = run_command(evaluation.main, f"ckpt={run_copy}")
    assert_one_message(outcome, FILE, "this run has no first look", "first_look=none")


def test_it_is_not_calibrated_on_other_data(copy):
    outcome = run_command(evaluation.main, f"ckpt={copy}", "first_look=calibrate", "data.crop_above=0.5")
    assert_one_message(outcome, "data.crop_above", "its own validation cases")
    assert not (copy / FILE).exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "can't be read"),
        ("[]", "no first look of format 1"),
        ('{"format": 2}', "no first look of format 1"),
        ('{"format": 1, "margin": 1}', "threshold=None must be a number"),
        ('{"format": 1, "threshold": true, "margin": 1}', "threshold=True must be a number"),
        ('{"format": 1, "threshold": Infinity, "margin": 1}', "must be a number"),
        ('{"format": 1, "threshold": 0.5, "margin": -1}', "margin=-1 must be a number of patches"),
        ('{"format": 1, "threshold": 0.5, "margin": 0.5}', "margin=0.5 must be a number of patches"),
    ],
)
def test_a_file_that_says_nothing_is_refused(copy, image, tmp_path, text, words):
    (copy / FILE).write_text(text)
    arguments = (f"ckpt={copy}", f"input={image}", f"output={tmp_path}/out")
    assert_one_message(run_command(predict.main, *arguments), FILE, words)
    assert run_command(predict.main, *arguments, "first_look=none").status == 0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("first_look=all", "calibrated, none, calibrate"),
        ("first_look_keep=0", "first_look_keep=0.0 must be a share"),
        ("first_look_margin=-1", "first_look_margin=-1 must be a number of patches"),
    ],
)
def test_settings_that_cannot_be_are_refused(looking, setting, words):
    assert_one_message(run_command(evaluation.main, f"ckpt={looking}", setting), words)


def test_a_look_needs_labels(smoke, tmp_path):
    outcome = run_command(train.main, *smoke, "look=first", "+variant=mae", "loss=masked", f"run_dir={tmp_path}/run")
    assert_one_message(outcome, "look learns from labels", "look=null")


def test_an_export_says_that_it_has_none(by_hand, tmp_path):
    outcome = run_command(export.main, f"ckpt={by_hand}", "format=torch", f"output={tmp_path}/out", "agreement=0")
    assert outcome.status == 0, outcome.err
    assert "the export has no first look: it predicts every window" in outcome.out
