"""The post-processing of a run: chosen on validation cases, then used wherever the run predicts."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import assert_one_message, run_command
from predicted_maps import labels_of, predicted

import sct
from sct import eval as evaluation
from sct import predict, verify
from sct.data.phantoms.phantom import ORGANS
from sct.inference.postprocess import Postprocessing, Steps
from sct.runs import card
from sct.runs.postprocessing import FILE, write_choice

# they change the map of a network that has hardly learnt
STEPS = {organ.name: {"largest": True, "fill_holes": True} for organ in ORGANS}


@pytest.fixture(scope="module")
def image(workplace: Path, finished_run: Path) -> Path:
    return sorted((workplace / "data/phantom_smoke").rglob("img/*.nii.gz"))[-1]


@pytest.fixture
def by_hand(run_copy: Path) -> Path:
    """A run with steps that somebody wrote."""
    write_choice(run_copy, {"steps": STEPS})
    return run_copy


def test_every_command_uses_what_was_chosen(finished_run, by_hand, image, tmp_path):
    raw = predicted(finished_run, image, tmp_path / "raw")
    steps = Postprocessing({value: Steps(largest=True, fill_holes=True) for value in range(1, len(ORGANS) + 1)})
    want = steps.apply(raw, affine=nib.load(image).affine)
    assert (want != raw).any(), "the comparison below would say nothing"
    np.testing.assert_array_equal(predicted(by_hand, image, tmp_path / "predict"), want)
    np.testing.assert_array_equal(predicted(by_hand, image, tmp_path / "none", "postprocess=none"), raw)
    np.testing.assert_array_equal(sct.load(by_hand, device="cpu").predict(image).labels, want)
    np.testing.assert_array_equal(sct.load(by_hand, device="cpu", postprocess="none").predict(image).labels, raw)
    outcome = run_command(evaluation.main, f"ckpt={by_hand}", "figures=0", "lesions=true")
    assert outcome.status == 0, outcome.err
    assert "true lesions" in outcome.out
    (written,) = (by_hand / "eval/test/predictions").iterdir()
    np.testing.assert_array_equal(labels_of(written), want)
    result = card.read_card(by_hand / "eval/test")
    assert result["postprocessing"] == STEPS
    assert (result["evaluation"]["postprocess"], result["evaluation"]["lesions"]) == ("chosen", True)
    assert f"postprocessing: {STEPS}" in (by_hand / "eval/test/table.md").read_text()
    # the scores are those of the maps after the steps, and are found again
    confirmed = run_command(verify.main, f"ckpt={by_hand}")
    assert confirmed.status == 0, confirmed.err
    write_choice(by_hand, {"steps": {}})
    assert_one_message(run_command(verify.main, f"ckpt={by_hand}"), "\n  postprocessing.", "on the card")
    # without them it is another evaluation
    write_choice(by_hand, {"steps": STEPS})
    outcome = run_command(evaluation.main, f"ckpt={by_hand}", "postprocess=none")
    assert_one_message(outcome, "postprocess differ from the run's", "output=FOLDER")


def test_the_steps_are_chosen_on_validation_cases(run_copy, finished_run, tmp_path):
    before = run_command(evaluation.main, f"ckpt={finished_run}", "split=val", f"output={tmp_path}/val", "figures=0")
    assert before.status == 0, before.err
    outcome = run_command(evaluation.main, f"ckpt={run_copy}", "split=val", "postprocess=choose", "figures=0")
    assert outcome.status == 0, outcome.err
    content = json.loads((run_copy / FILE).read_text())
    recorded = card.read_card(finished_run)["split"]
    assert content["cases"] == recorded["val"]
    assert content["steps"], "a network that has hardly learnt has strays"
    assert set(content["steps"]) == set(content["dice"])
    without, chosen = (
        json.loads((folder / "summary.json").read_text())["dice"]
        for folder in (tmp_path / "val", run_copy / "eval/val")
    )
    assert chosen["mean"] > without["mean"]
    for name, gain in content["dice"].items():
        assert without["per_class"][name] == pytest.approx(gain["without"])
        assert chosen["per_class"][name] == pytest.approx(gain["with"])
    others = set(without["per_class"]) - set(content["dice"])
    assert {name: chosen["per_class"][name] for name in others} == {name: without["per_class"][name] for name in others}
    assert "postprocessing.json" in outcome.out
    # of other weights nothing is known
    state = card.read_card(run_copy / "eval/val")
    assert content["weights"] == state["weights"]
    write_choice(run_copy, {**content, "weights": "0" * 64})
    outcome = run_command(evaluation.main, f"ckpt={run_copy}", f"output={tmp_path}/other", "figures=0")
    assert outcome.status == 0, outcome.err
    assert "was chosen for other weights of this run and is not used" in outcome.out
    assert card.read_card(tmp_path / "other")["postprocessing"] == {}


def test_steps_are_not_chosen_on_other_data(run_copy):
    outcome = run_command(evaluation.main, f"ckpt={run_copy}", "postprocess=choose", "data.crop_above=0.5")
    assert_one_message(outcome, "data.crop_above", "its own validation cases")
    assert not (run_copy / FILE).exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "can't be read"),
        ("[]", "no post-processing of format 1"),
        ('{"format": 2}', "no post-processing of format 1"),
        ('{"format": 1, "steps": {"kidneys": {}}}', "names the class kidneys"),
    ],
)
def test_a_file_that_says_nothing_is_refused(run_copy, image, tmp_path, text, words):
    (run_copy / FILE).write_text(text)
    arguments = (f"ckpt={run_copy}", f"input={image}", f"output={tmp_path}/out")
    assert_one_message(run_command(predict.main, *arguments), FILE, words)
    assert run_command(predict.main, *arguments, "postprocess=none").status == 0


def test_a_choice_that_is_none_is_refused(run_copy, image, tmp_path):
    arguments = (f"ckpt={run_copy}", f"input={image}", f"output={tmp_path}/out")
    outcome = run_command(predict.main, *arguments, "postprocess=choose")
    assert_one_message(outcome, "chosen, none", "python -m sct.eval ckpt=RUN postprocess=choose")
    assert_one_message(run_command(evaluation.main, f"ckpt={run_copy}", "postprocess=all"), "chosen, none, choose")
    with pytest.raises(sct.errors.UserError, match="postprocess=choose must be one of chosen, none"):
        sct.load(run_copy, postprocess="choose")
