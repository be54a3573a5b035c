"""Result cards: what is on them, that a run repeated from its card is the same, and that changes are found."""

import json
import shutil

import pytest
import torch
from commands import assert_one_message, run_command
from omegaconf import OmegaConf

from sct import eval as evaluation
from sct import train, verify
from sct.config.requests import EvalConfig
from sct.runs import card
from sct.runs.run import open_run
from sct.runtime import checkpoint
from sct.tasks.eval import default_folder
from sct.tasks.verify import numbers


@pytest.fixture(scope="module")
def evaluated(smoke, workplace):
    folder = workplace / "verified"
    assert run_command(train.main, *smoke, f"run_dir={folder}").status == 0
    assert run_command(evaluation.main, f"ckpt={folder}").status == 0
    return folder


def copied(evaluated, tmp_path):
    return shutil.copytree(evaluated, tmp_path / "copy")


def test_what_is_on_a_card(evaluated):
    run, result = card.read_card(evaluated), card.read_card(evaluated / "eval/test")
    assert run["command"][:3] == ["python", "-m", "sct.train"]
    assert run["config"]["seed"] == 0
    assert run["versions"]["torch"] == torch.__version__
    assert [len(run["split"][split]) for split in ("train", "val", "test")] == [2, 1, 1]
    assert result["scores"] == json.loads((evaluated / "eval/test/summary.json").read_text())
    best = checkpoint.load(evaluated / "checkpoints/best.pt")["model"]
    assert result["weights"] == card.weights_digest(best)
    assert result["training"] == run
    for own in (run, result):
        assert own["dtype"] == "float32"
        assert own["dtype_reason"].startswith("set by trainer.precision")
    assert result["split"] == run["split"]


def test_a_run_is_confirmed_by_scoring_it_again(evaluated):
    outcome = run_command(verify.main, f"ckpt={evaluated}")
    assert outcome.status == 0, outcome.err
    assert "confirmed: scores are those on" in outcome.out


def test_a_card_from_before_a_score_is_confirmed(evaluated, tmp_path):
    run = copied(evaluated, tmp_path)
    path = run / "eval/test/card.json"
    content = json.loads(path.read_text())
    del content["scores"]["nsd"], content["scores"]["meta"]["tolerance"]
    path.write_text(json.dumps(content))
    outcome = run_command(verify.main, f"ckpt={run}")
    assert outcome.status == 0, outcome.err
    # what is on the card must be found
    content["scores"]["hd99_mm"] = {"mean": 3.0}
    path.write_text(json.dumps(content))
    assert_one_message(run_command(verify.main, f"ckpt={run}"), "hd99_mm.mean: missing, on the card 3.0")


def test_a_run_is_repeated_from_its_card_alone(evaluated, tmp_path):
    alone = shutil.copy(evaluated / "eval/test/card.json", tmp_path / "card.json")
    outcome = run_command(verify.main, f"card={alone}", "retrain=true", f"output={tmp_path}/new")
    assert outcome.status == 0, outcome.err
    assert "weights and scores of a new training" in outcome.out
    ours, theirs = (checkpoint.load(run / "checkpoints/best.pt")["model"] for run in (tmp_path / "new/run", evaluated))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_changed_weights_and_scores_are_found(evaluated, tmp_path):
    run = copied(evaluated, tmp_path)
    path = run / "checkpoints/best.pt"
    state = checkpoint.load(path)
    name = next(name for name in state["model"] if name.endswith("weight"))
    state["model"][name].flatten()[0] += 1
    checkpoint.save(state, path)
    outcome = run_command(verify.main, f"ckpt={run}")
    assert outcome.status == 1
    assert "weights:" in outcome.err


def test_a_changed_score_is_found_and_a_tolerance_forgives_it(evaluated, tmp_path):
    run = copied(evaluated, tmp_path)
    file = run / "eval/test/card.json"
    content = json.loads(file.read_text())
    true = content["scores"]["dice"]["mean"]
    content["scores"]["dice"]["mean"] = true + 0.001
    file.write_text(json.dumps(content))
    outcome = run_command(verify.main, f"ckpt={run}")
    assert outcome.status == 1
    assert f"dice.mean: {true}, on the card" in outcome.err
    assert run_command(verify.main, f"ckpt={run}", "tolerance=0.01").status == 0


def test_other_circumstances_are_told(evaluated, tmp_path):
    run = copied(evaluated, tmp_path)
    file = run / "eval/test/card.json"
    content = json.loads(file.read_text())
    content["versions"]["monai"] = "0.1"
    content["dtype"] = "bfloat16"
    file.write_text(json.dumps(content))
    outcome = run_command(verify.main, f"ckpt={run}")
    assert outcome.status == 0, outcome.err
    assert "not as on the card: versions.monai" in outcome.out
    assert "not as on the card: dtype: float32, on the card bfloat16" in outcome.out


def test_a_card_of_before_that_tells_less_is_confirmed(evaluated, tmp_path):
    run = copied(evaluated, tmp_path)
    file = run / "eval/test/card.json"
    content = json.loads(file.read_text())
    del content["dtype"]
    file.write_text(json.dumps(content))
    outcome = run_command(verify.main, f"ckpt={run}")
    assert outcome.status == 0, outcome.err
    assert "not as on the card" not in outcome.out


def test_another_start_is_found_and_outlives_a_resume(evaluated, tmp_path):
    run = copied(evaluated, tmp_path)
    file = run / "eval/test/card.json"
    content = json.loads(file.read_text())
    content["training"]["first_weights"]["network"] = "0" * 64
    file.write_text(json.dumps(content))
    outcome = run_command(verify.main, f"ckpt={run}")
    assert outcome.status == 1
    assert "first weights, network: " in outcome.err
    before = card.read_card(run)
    assert run_command(train.main, f"resume={run}", "trainer.max_steps=5").status == 0
    after = card.read_card(run)
    assert after["first_weights"] == before["first_weights"]
    assert after["config"]["trainer"]["max_steps"] == 5
    assert after["history"] == [before]


def test_other_data_are_found(evaluated, workplace):
    label = next((workplace / "data/phantom_smoke/organs").rglob("label0004.nii.gz"))
    whole = label.read_bytes()
    try:
        # nothing but the size of the file: gzip ignores what follows
        label.write_bytes(whole + b"\0" * 8)
        outcome = run_command(verify.main, f"ckpt={evaluated}")
    finally:
        label.write_bytes(whole)
    assert outcome.status == 1
    assert "files of the same cases have other sizes" in outcome.err


def test_an_evaluation_of_other_data_goes_elsewhere(evaluated, tmp_path):
    before = (evaluated / "eval/test/summary.json").read_bytes()
    for settings in (["inferer.overlap=0.25"], ["data.split=same"], ["precision=bf16"]):
        outcome = run_command(evaluation.main, f"ckpt={evaluated}", *settings)
        assert outcome.status == 1
        assert "give output=FOLDER" in outcome.err
    assert (evaluated / "eval/test/summary.json").read_bytes() == before
    outcome = run_command(evaluation.main, f"ckpt={evaluated}", "inferer.overlap=0.25", f"output={tmp_path}/other")
    assert outcome.status == 0, outcome.err
    assert card.read_card(tmp_path / "other")["evaluation"]["inferer"] == {"overlap": 0.25}


def test_what_auto_chooses_makes_no_other_evaluation(evaluated):
    run = open_run(str(evaluated), device="cpu")
    run.config.trainer.precision = "bf16"
    for precision in (None, "auto", "bf16"):
        cfg = OmegaConf.structured(EvalConfig(ckpt=str(evaluated), precision=precision))
        assert default_folder(cfg, run=run) == evaluated / "eval/test"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give ckpt=RUN"),
        (("card=x.json",), "has no weights to score"),
        (("ckpt=nowhere",), "nowhere/eval/test/card.json does not exist"),
    ],
)
def test_mistakes_are_told(arguments, words):
    outcome = run_command(verify.main, *arguments)
    assert outcome.status == 1
    assert words in outcome.err


def test_digest_sees_every_bit_and_no_order():
    state = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    digest = card.weights_digest(state)
    assert card.weights_digest({"b": state["b"].clone(), "a": state["a"].clone()}) == digest
    assert card.weights_digest({**state, "b": torch.tensor([1.0000001])}) != digest
    assert card.weights_digest({**state, "a": torch.zeros(3, 2)}) != digest


def test_numbers_of_a_summary():
    assert numbers({"dice": {"mean": 0.5, "groups": {}}, "n": 2, "title": "t"}) == [("dice.mean", 0.5), ("n", 2.0)]
