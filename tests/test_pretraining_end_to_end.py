"""Pretraining on images without labels, and the training that takes its weights."""

import json
import shutil

import pytest
import torch
from commands import run_command

from sct import errors, export, load, predict, train
from sct import eval as evaluation
from sct.data import __main__ as data_command
from sct.runtime import checkpoint

MAE = ("+experiment=demo_mae", "+debug=smoke", "trainer.tensorboard=false")
FULL = ("+experiment=demo", "+debug=smoke", "trainer.tensorboard=false")


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder, name="last"):
    return checkpoint.load(checkpoint.find(str(folder), weights=name))["model"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pretraining")


@pytest.fixture(scope="module")
def paths(place):
    return [f"paths.data={place}/data", f"paths.cache={place}/cache", f"paths.outputs={place}/runs"]


@pytest.fixture(scope="module")
def pretrained(place, paths):
    """A pretraining on phantoms whose label files are gone."""
    wrote = run_command(data_command.main, "check", *FULL, *paths)
    assert wrote.status == 0, wrote
    labels = next(place.glob("data/**/label"))
    labels.rename(place / "labels")
    outcome = run_command(train.main, *MAE, *paths, f"run_dir={place}/run")
    assert outcome.status == 0, outcome
    assert f"train from it with  python -m sct.train +experiment=NAME init={place}/run" in outcome.out
    refused = run_command(train.main, *FULL, *paths)
    assert "has no label" in refused.err
    shutil.move(place / "labels", labels)
    return place / "run"


def test_a_pretraining_logs_its_loss_and_what_it_explains(pretrained):
    logged = rows(pretrained)
    assert [row["step"] for row in logged if "train/loss" in row] == [1, 2, 3, 4]
    assert all(row["tokens/kept_1"] == 0.25 for row in logged if "train/loss" in row)
    judged = [row for row in logged if "val/explained" in row]
    assert [row["step"] for row in judged] == [2, 4]
    assert all(0 < row["val/masked_error"] < 10 for row in judged)
    best = max(judged, key=lambda row: row["val/explained"])
    assert checkpoint.load(pretrained / "checkpoints" / "best.pt")["best"]["step"] == best["step"]


def test_a_pretraining_goes_on_bit_for_bit(pretrained, paths, place):
    half = (*MAE, *paths, f"run_dir={place}/half")
    assert run_command(train.main, *half, "trainer.max_steps=4", "trainer.save_every=2").status == 0
    (place / "half" / "finished").unlink()
    newest = max((place / "half" / "checkpoints").glob("step_*"))
    newest.unlink()
    outcome = run_command(train.main, f"resume={place}/half", *paths)
    assert outcome.status == 0, outcome
    assert rows(place / "half")[-1]["val/explained"] == rows(pretrained)[-1]["val/explained"]
    again, once = weights(place / "half"), weights(pretrained)
    assert all(torch.equal(again[name], once[name]) for name in once)


def test_a_training_starts_from_it(pretrained, paths, place):
    outcome = run_command(train.main, *FULL, *paths, f"init={pretrained}", "optimizer.lr=0", f"run_dir={place}/tuned")
    assert outcome.status == 0, outcome
    assert "of the file's" in outcome.out
    assert "start anew" in outcome.out
    start, now = weights(pretrained, "best"), weights(place / "tuned")
    taken = [name for name in now if name.startswith("encoder.") and "reducer" not in name]
    assert taken
    shared = [name for name in now if name in start and name.startswith("completion.blocks") and now[name].ndim > 1]
    assert shared
    assert not any(torch.equal(start[name], now[name]) for name in shared), "what completes starts anew, as in MAE"
    assert "its encoder is taken" in outcome.out
    assert all(torch.equal(start[name], now[name]) for name in taken), "with a learning rate of 0 they stay"
    assert run_command(evaluation.main, f"ckpt={place}/tuned").status == 0


def test_another_pretraining_takes_all(pretrained, paths, place):
    outcome = run_command(train.main, *MAE, *paths, f"init={pretrained}", "optimizer.lr=0", f"run_dir={place}/on")
    assert outcome.status == 0, outcome
    start, now = weights(pretrained, "best"), weights(place / "on")
    assert all(torch.equal(start[name], now[name]) for name in start)


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(evaluation.main, ()), (predict.main, ("input=x", "output=y")), (export.main, ("format=torch",))],
    ids=["eval", "predict", "export"],
)
def test_it_knows_no_labels(pretrained, main, arguments):
    outcome = run_command(main, f"ckpt={pretrained}", *arguments)
    assert outcome.status == 1
    assert "pretrained on images without labels" in outcome.err
    assert f"init={pretrained}" in outcome.err


def test_it_is_no_run_to_open_and_no_teacher(pretrained, paths):
    with pytest.raises(errors.UserError, match="knows no class"):
        load(pretrained)
    outcome = run_command(train.main, *FULL, *paths, f"loss.teacher={pretrained}")
    assert "knows no class" in outcome.err


MISTAKES = {
    "a loss of labels": (("loss=dice_ce",), "needs labels, but data.labelled=false"),
    "labels for a loss of images": (("data.labelled=true",), "Give data.labelled=false"),
    "a score of labels": (("trainer.best_metric=val/dice/mean",), "Did you mean 'val/explained'"),
    "a network that sees hidden patches": (("completion=mta",), "it would learn to copy"),
}


@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_message(arguments, told, paths, place):
    outcome = run_command(train.main, *MAE, *paths, *arguments, f"run_dir={place}/none")
    assert outcome.status == 1
    assert told in outcome.err
    assert not (place / "none").exists()


def test_a_folder_of_images_alone(pretrained, paths, place):
    images = next(place.glob("data/**/img"))
    shared = ("+variant=mae", "trainer.max_steps=2", "trainer.precision=fp32", "schedule.warmup_steps=0")
    small = ("encoder.dim=24", "encoder.num_heads=2", "encoder.depth=1", "data.roi_size=[16,16,16]")
    outcome = run_command(
        train.main, "data=images", f"data.root={images}", *paths, *shared, *small, f"run_dir={place}/alone"
    )
    assert outcome.status == 0, outcome
    cases = json.loads((place / "alone" / "card.json").read_text())["split"]
    assert len(cases["val"]) == 1
    assert len(cases["train"]) == 3
    assert cases["test"] == []
    for key, told in (("data.root=/nowhere", "is no folder"), ("data.labelled=true", "data=images has no labels")):
        refused = run_command(train.main, "data=images", f"data.root={images}", *paths, *shared, *small, key)
        assert told in refused.err


def test_describing_images_without_labels_is_one_message(pretrained, paths):
    outcome = run_command(data_command.main, "describe", *FULL, *paths, "data.labelled=false")
    assert outcome.status == 1
    assert "has no label to count" in outcome.err
