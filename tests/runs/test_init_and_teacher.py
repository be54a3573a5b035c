"""A training that starts from another run's weights, and one that is taught by another run."""

import json

from commands import run_command

from sct import train
from sct.runs import card
from sct.runtime import checkpoint


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_dense_twin_starts_from_the_sparse_run_and_learns_from_it(smoke, finished_run, tmp_path):
    folder = tmp_path / "twin"
    outcome = run_command(
        train.main,
        *smoke,
        "encoder=dense",
        f"init={finished_run}",
        f"loss.teacher={finished_run}",
        "trainer.max_steps=1",
        "schedule.warmup_steps=0",
        "optimizer.lr=0",
        f"run_dir={folder}",
    )
    assert outcome.status == 0, outcome
    start = checkpoint.load(checkpoint.find(str(finished_run), weights="best"))["model"]
    now = checkpoint.load(checkpoint.find(str(folder), weights="last"))["model"]
    shared = [name for name in now if name.startswith("encoder.") and "reducer" not in name]
    assert shared
    assert all((start[name] == now[name]).all() for name in shared), "with a learning rate of 0 they stay"
    told = card.read_card(folder)["first_weights"]
    assert told["network"] == card.weights_digest(now)
    assert told["loss"] != card.read_card(finished_run)["first_weights"]["loss"], "the teacher's weights are told too"
    first = rows(folder)[0]
    assert first["train/loss_distill"] > 0
    parts = first["train/loss_dice"] + first["train/loss_ce"] + 0.5 * first["train/loss_distill"]
    assert abs(first["train/loss"] - parts) < 1e-5


def test_a_missing_start_is_one_message(smoke, tmp_path):
    outcome = run_command(train.main, *smoke, "init=nowhere", f"run_dir={tmp_path / 'run'}")
    assert outcome.status == 1
    assert "init=nowhere is neither" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_frozen_encoder_without_first_weights_is_told(smoke, tmp_path):
    dtop = ("encoder=dtop", "encoder.reducer.head=fcn", "encoder.reducer.mode=finetune", "encoder.taps=0")
    settings = (*dtop, "decoder=fcn", "completion=scatter", "trainer.max_steps=1")
    outcome = run_command(train.main, *smoke, *settings, f"run_dir={tmp_path}/cold")
    assert outcome.status == 0, outcome
    assert "DToP trains a frozen encoder, but nothing gives it weights" in outcome.out
    outcome = run_command(train.main, *smoke, *settings, f"init={tmp_path}/cold", f"run_dir={tmp_path}/warm")
    assert outcome.status == 0, outcome
    assert "nothing gives it weights" not in outcome.out
