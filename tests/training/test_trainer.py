"""One step and its checks: accumulation, clipping, averaging, precision, and what stops a run."""

import json
import re
import shutil
import weakref

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import assert_one_message, own_settings, run_command
from torch import nn

from sct import train
from sct.config.check import build, to_dict
from sct.config.command import compose_config
from sct.errors import UserError
from sct.runs.folder import best_score
from sct.runtime import checkpoint
from sct.runtime.distributed import Processes
from sct.runtime.precision import NumberFormat
from sct.tasks.train import build_trainer
from sct.training.goal import Segmentation
from sct.training.loggers import flat_settings
from sct.training.optim import update_average, warmed_decay
from sct.training.saving import compare_start
from sct.training.trainer import Trainer, draw_seed

ONE_PROCESS = Processes(rank=0, world_size=1, device=torch.device("cpu"))
# few channels: rounding grows slowly enough to compare several steps
DENSE = ("encoder=dense", "completion=scatter", "decoder.feature_size=4")


@pytest.fixture(autouse=True)
def one_thread():
    with own_settings():
        yield


def make_trainer(smoke: list[str], *overrides: str) -> Trainer:
    """A trainer as `sct.train` makes it, before its first step."""
    cfg = compose_config("train", overrides=[*smoke, *overrides])
    data = build(cfg.data, key="data")
    return build_trainer(cfg, data=data, processes=ONE_PROCESS, config=to_dict(cfg))


def steps(trainer: Trainer, *, number: int) -> list[dict[str, float]]:
    """The rows of the first steps."""
    rows = []
    for batches in trainer.batches():
        rows.append(trainer.train_step(batches))
        trainer.step += 1
        if trainer.step == number:
            break
    return rows


def weights(trainer: Trainer) -> torch.Tensor:
    return nn.utils.parameters_to_vector(trainer.segmenter.parameters()).detach().clone()


def test_two_accumulated_batches_of_one_equal_one_of_two(smoke):
    # a loss of image by image: the Dice of a batch as one does not add up
    by_image = [*DENSE, "loss.pixel.batch=false", "loss.pixel.log=false"]
    one = make_trainer(smoke, *by_image, "data.batch_size=2")
    two = make_trainer(smoke, *by_image, "data.batch_size=1", "trainer.accumulate=2")
    for row, other in zip(steps(one, number=4), steps(two, number=4), strict=True):
        assert row["train/loss"] == pytest.approx(other["train/loss"], abs=1e-5)
        # rounding differs, and grows from step to step
        assert row["train/grad_norm"] == pytest.approx(other["train/grad_norm"], rel=1e-3)
    torch.testing.assert_close(weights(one), weights(two), atol=1e-3, rtol=0)


def test_steps_repeat_exactly_with_all_kinds_of_noise(smoke):
    settings = ["encoder.drop_path=0.3", "encoder.reducer.perturb=true"]
    first, second = make_trainer(smoke, *settings), make_trainer(smoke, *settings)
    rows = steps(first, number=3)
    torch.rand(7)  # what others draw between does not matter
    assert steps(second, number=3) == rows
    assert torch.equal(weights(first), weights(second))


def test_gradients_are_clipped_and_logged_unclipped(smoke):
    trainer = make_trainer(smoke, "trainer.clip_norm=0.01")
    (row,) = steps(trainer, number=1)
    assert row["train/grad_norm"] > 0.1
    gradients = [parameter.grad for parameter in trainer.segmenter.parameters() if parameter.grad is not None]
    assert nn.utils.get_total_norm(gradients).item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("log_every", [1, 10])
def test_the_backward_pass_frees_the_logits(smoke, log_every, monkeypatch):
    trainer = make_trainer(smoke, f"trainer.log_every={log_every}")
    assert trainer.is_logged(1) == (log_every == 1)
    logits, held = [], []
    predict = type(trainer.segmenter).forward

    def forward(self, image):
        prediction = predict(self, image)
        logits.append(weakref.ref(prediction.logits.untyped_storage()))
        return prediction

    monkeypatch.setattr(type(trainer.segmenter), "forward", forward)
    first = next(trainer.segmenter.encoder.parameters())
    first.register_hook(lambda gradient: held.append(logits[0]() is not None))
    trainer.train_step(next(iter(trainer.batches())))
    assert held == [False]


def test_the_log_tells_the_pace_and_a_shortened_warmup_once(smoke, tmp_path):
    settings = ["schedule.warmup_steps=30", "trainer.max_steps=5", "trainer.log_every=3", "trainer.validate_every=5"]
    outcome = run_command(train.main, *smoke, *settings, f"run_dir={tmp_path}/run")
    assert outcome.status == 0, outcome
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("schedule.warmup_steps=30 is over half of trainer.max_steps=5: the warm-up takes 2 steps") == 1
    first, *_, last = [line for line in log.splitlines() if " s a step" in line]
    assert " step 1/5 " in first
    assert re.search(r"loss \S+ .* s a step, about \d+ (s|minutes) to go, ends [\d: \w]*\d\d:\d\d$", first)
    assert " step 5/5 " in last
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3, 5, 5], "what is told beside the logged steps is no row"


def test_rates_follow_the_schedule_and_the_layers(smoke):
    trainer = make_trainer(smoke, *DENSE, "optimizer.lr=1e-3", "optimizer.layer_decay=0.5", "schedule.warmup_steps=2")
    assert [row["train/lr"] for row in steps(trainer, number=2)] == [0.5e-3, 1e-3]
    assert max(group["lr"] for group in trainer.optimizer.param_groups) == 1e-3
    depth = trainer.segmenter.encoder.depth
    assert min(group["lr"] for group in trainer.optimizer.param_groups) == pytest.approx(1e-3 * 0.5 ** (depth + 1))


def test_the_average_follows_the_weights(smoke):
    trainer = make_trainer(smoke, "trainer.ema_decay=0.9")
    average = weights(trainer)
    for batches in trainer.batches():
        trainer.train_step(batches)
        trainer.step += 1
        average = 0.9 * average + 0.1 * weights(trainer)
    torch.testing.assert_close(nn.utils.parameters_to_vector(trainer.ema.parameters()), average)
    assert not any(parameter.requires_grad for parameter in trainer.ema.parameters())


def test_the_decay_of_the_average_grows_to_its_value(smoke):
    assert [warmed_decay(0.9, step=step) for step in (0, 8, 80, 1000)] == [0.1, 0.5, 0.9, 0.9]
    trainer = make_trainer(smoke, "trainer.ema_decay=0.9", "trainer.ema_warmup=true")
    average = weights(trainer)
    for step, batches in enumerate(trainer.batches()):
        trainer.train_step(batches)
        trainer.step += 1
        decay = (1 + step) / (10 + step)
        average = decay * average + (1 - decay) * weights(trainer)
    assert trainer.step > 1
    torch.testing.assert_close(nn.utils.parameters_to_vector(trainer.ema.parameters()), average)


def test_deep_supervision_is_a_part_of_the_loss(smoke, caplog):
    patches = ("encoder.patch_size=8", "encoder.depth=2", "pruning.blocks=[1]")
    for deep in (False, True):
        (row,) = steps(make_trainer(smoke, *patches, f"trainer.deep_supervision={str(deep).lower()}"), number=1)
        assert (row.get("train/loss_levels", 0.0) > 0) == deep
    assert "is ignored" not in caplog.text
    make_trainer(smoke, "encoder.patch_size=4", "trainer.deep_supervision=true")  # two levels: the coarser is left out
    assert "trainer.deep_supervision=true is ignored" in caplog.text


def test_the_average_takes_buffers_as_they_are():
    mean, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    network(torch.randn(8, 2))
    nn.init.constant_(network.weight, 3.0)
    update_average(mean, network, decay=0.5)
    assert torch.equal(mean.running_mean, network.running_mean)
    assert torch.equal(mean.weight, torch.full((2,), 2.0))


def test_the_best_checkpoint_holds_the_average(smoke, tmp_path):
    settings = ["trainer.ema_decay=0.9", "trainer.max_steps=2", f"run_dir={tmp_path}/run"]
    assert run_command(train.main, *smoke, *settings).status == 0
    best = checkpoint.load(checkpoint.find(str(tmp_path / "run"), weights="best"))
    last = checkpoint.load(checkpoint.find(str(tmp_path / "run"), weights="last"))
    assert best["step"] == last["step"] == 2
    for name, value in best["model"].items():
        assert torch.equal(value, last["ema"][name])
    assert not all(torch.equal(value, last["model"][name]) for name, value in best["model"].items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_in_half_precision_is_finite(smoke, precision):
    trainer = make_trainer(smoke, f"trainer.precision={precision}", "data.roi_size=[24,24,16]")
    before = weights(trainer)
    for row in steps(trainer, number=2):
        assert np.isfinite(row["train/loss"])
    assert torch.isfinite(weights(trainer)).all()
    assert not torch.equal(before, weights(trainer))
    assert {parameter.dtype for parameter in trainer.segmenter.parameters()} == {torch.float32}


def test_all_processes_compute_in_one_format(smoke, monkeypatch):
    bf16, fp32 = NumberFormat("bf16", "here"), NumberFormat("fp32", "there")
    monkeypatch.setattr("sct.training.trainer.choose_precision", lambda *asked, **more: bf16)
    trainer = make_trainer(smoke)
    assert (trainer.format, trainer.dtype) == (bf16, torch.bfloat16)
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value, fp32, value])
    assert make_trainer(smoke).format == fp32


def test_gradients_are_checked_before_a_training(smoke, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "sct.training.trainer.choose_precision", lambda name, **more: asked.update(more) or NumberFormat("fp32", name)
    )
    assert make_trainer(smoke, "trainer.precision=auto").format.reason == "auto"
    assert asked["learns"]


def test_a_run_that_goes_on_in_another_format_says_so(smoke, tmp_path, caplog):
    trainer = make_trainer(smoke)
    for before in ({}, {"number_format": "fp32"}):
        compare_start(trainer, {"world_size": 1, **before}, tmp_path)
    assert not caplog.records
    compare_start(trainer, {"world_size": 1, "number_format": "bf16"}, tmp_path)
    assert f"{tmp_path} was trained in bf16 and is resumed in fp32" in caplog.text
    assert "trainer.precision=bf16" in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_its_checkpoints(smoke, finished_run, workplace, tmp_path):
    # the finished run is wanted for its phantoms; the second case is spoilt behind the back of the check
    root = shutil.copytree(workplace / "data" / "phantom_smoke", tmp_path / "data")
    image = nib.load(root / "organs/RawData/Training/img/img0002.nii.gz")
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), image.get_filename())
    run = tmp_path / "run"
    settings = [f"data.root={root}", "data.check=false", "trainer.save_every=1", "trainer.validate_every=1"]
    outcome = run_command(train.main, *smoke, *settings, f"run_dir={run}")
    assert_one_message(outcome, "loss is not finite", "loss=nan", "dice=", "ce=", "at step 2", "cases 0002", str(run))
    assert [path.name for path in checkpoint.step_files(run)] == ["step_00000001.pt"]
    assert checkpoint.load(run / checkpoint.FOLDER / "best.pt")["step"] == 1
    assert {json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()} == {1}
    assert not (run / "finished").exists()


def test_gradients_that_are_not_finite_stop_before_the_weights_change(smoke, tmp_path):
    trainer = make_trainer(smoke, "trainer.ema_decay=0.9")
    trainer.run_dir = tmp_path
    before = weights(trainer)
    trainer.segmenter.decoder.head.register_full_backward_pre_hook(lambda module, gradients: (gradients[0] * np.inf,))
    with pytest.raises(UserError, match=r"gradient is not finite at step 1, cases 0001"):
        steps(trainer, number=1)
    assert torch.equal(weights(trainer), before)
    assert torch.equal(nn.utils.parameters_to_vector(trainer.ema.parameters()), before)


def test_seeds_of_draws_differ_and_repeat():
    numbers = [(0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 0)]
    assert len({draw_seed(*group) for group in numbers}) == len(numbers)
    assert draw_seed(3, 2, 1, 0) == draw_seed(3, 2, 1, 0)


def test_settings_for_tensorboard_are_flat_and_plain():
    settings = {"a": {"b": 1, "c": [1, 2], "d": {"e": None}}, "f": 1e-3}
    assert flat_settings(settings) == {"a.b": 1, "a.c": "[1, 2]", "a.d.e": "None", "f": 1e-3}


def test_tensorboard_gets_numbers_pictures_and_settings(smoke, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ["trainer.tensorboard=true", "trainer.max_steps=2", f"run_dir={tmp_path}/run"]
    assert run_command(train.main, *smoke, *settings).status == 0
    tags: dict[str, set[str]] = {"scalars": set(), "images": set(), "tensors": set()}
    for file in (tmp_path / "run" / "tensorboard").iterdir():
        events = EventAccumulator(str(file))
        events.Reload()
        for kind, found in tags.items():
            found |= set(events.Tags()[kind])
    wanted = {
        "train/loss",
        "train/loss_dice",
        "train/loss_ce",
        "train/lr",
        "train/grad_norm",
        "time/step_s",
        "memory/peak_mb",
    }
    wanted |= {"val/dice/mean", "val/dice/liver", "tokens/alive_1", "tokens/foreground_kept_1", "tokens/kept_1"}
    assert wanted <= tags["scalars"]
    assert "val/overlay" in tags["images"]
    for text in ("config", "number_format"):
        assert any(name.startswith(text) for name in tags["tensors"])


@pytest.mark.parametrize(("choose", "kept"), [(True, 1), (False, 3)])
def test_the_last_weights_are_kept_where_the_best_are_not_chosen(smoke, tmp_path, monkeypatch, choose, kept):
    scores = iter([0.9, 0.2, 0.5])
    monkeypatch.setattr(Segmentation, "validate", lambda *args, **kwargs: {"val/dice/mean": next(scores)})
    run = tmp_path / "run"
    settings = ["trainer.max_steps=3", "trainer.validate_every=1", f"trainer.choose_best={choose}", f"run_dir={run}"]
    outcome = run_command(train.main, *smoke, *settings)
    assert outcome.status == 0
    assert checkpoint.load(run / checkpoint.FOLDER / "best.pt")["step"] == kept
    score = best_score(run, metric="val/dice/mean", chosen=choose)
    assert score == {1: 0.9, 3: 0.5}[kept]
    which = "best" if choose else "last"
    assert f"{which} val/dice/mean {score:.4f} at step {kept}; " in (run / "train.log").read_text()
