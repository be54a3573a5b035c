"""Ends of a training by signals, and damage to a run's files: nothing is lost, and what is made again is told."""

import errno
import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from commands import assert_one_message, flipped, run_command

from sct import predict, train
from sct.inference import SlidingWindow
from sct.runtime import blocks, checkpoint
from sct.runtime.logs import RunLog
from sct.runtime.rows import read_rows
from sct.training import loggers, trainer
from sct.training.loggers import RunLogger, cut_after
from sct.training.trainer import Trainer


def rows(run: Path) -> list[dict[str, float]]:
    """The rows of a run without times and memory."""
    values = read_rows(run / "metrics.jsonl").values
    return [{name: row[name] for name in row if not name.startswith(("time/", "memory/"))} for row in values]


def assert_same(run: Path, other: Path) -> None:
    """Both runs ended with the same weights, optimizer, best weights and rows."""
    assert rows(run) == rows(other)
    for name in ("best.pt", "step_00000004.pt"):
        one, two = (checkpoint.load(folder / checkpoint.FOLDER / name) for folder in (run, other))
        assert all(torch.equal(one["model"][key], two["model"][key]) for key in two["model"])
        assert one["step"] == two["step"]
        assert one["best"] == two["best"]
        assert repr(one.get("optimizer")) == repr(two.get("optimizer"))


def end(monkeypatch: pytest.MonkeyPatch, owner: type, function: str, *arguments: str, call: int, number: int) -> None:
    """A training that gets a signal at a call of a function."""
    original, calls = getattr(owner, function), []

    def signalled(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, signalled)
        outcome = run_command(train.main, *arguments)
    assert outcome.status == 128 + number, outcome
    assert f"Ended by {signal.Signals(number).name}. Saved at step" in outcome.err
    assert "resume=" in outcome.err
    assert "Traceback" not in outcome.err + outcome.out


MOMENTS = {
    "in a step": (Trainer, "train_step", 3, signal.SIGTERM, 3),
    "in a step whose validation is due": (Trainer, "train_step", 4, signal.SIGINT, 4),
    "in a log row": (RunLogger, "log", 1, signal.SIGTERM, 1),
    "in validation": (SlidingWindow, "__call__", 2, signal.SIGTERM, 4),
}
MARKS = dict.fromkeys(("in a step whose validation is due", "in a log row"), pytest.mark.long)


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in MOMENTS])
def test_a_signal_saves_and_the_run_goes_on_exactly(smoke, finished_run, tmp_path, monkeypatch, name):
    owner, function, call, number, step = MOMENTS[name]
    run = tmp_path / "run"
    arguments = [*smoke, f"run_dir={run}", "resume=auto"]
    end(monkeypatch, owner, function, *arguments, call=call, number=number)
    assert checkpoint.load(checkpoint.step_files(run)[0])["step"] == step
    assert (run / "unfinished").read_text() == f"step {step}, {signal.Signals(number).name}\n"
    assert not (run / "finished").exists()
    assert run_command(train.main, *arguments).status == 0
    assert not (run / "unfinished").exists()
    assert_same(run, finished_run)


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(smoke, finished_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    arguments = [*smoke, f"run_dir={run}", "resume=auto", "trainer.save_every=1"]
    write, calls = blocks.write_past_cache, []

    def signalled(*args):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # the training goes on meanwhile
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "write_past_cache", signalled)
        outcome = run_command(train.main, *arguments)
    assert outcome.status == 143, outcome
    assert "Ended by SIGTERM. Saved at step" in outcome.err
    assert "unfinished.tmp" not in {path.name for path in (run / checkpoint.FOLDER).iterdir()}
    saved = checkpoint.load(checkpoint.step_files(run)[0])["step"]
    assert (run / "unfinished").read_text() == f"step {saved}, SIGTERM\n"
    assert run_command(train.main, *arguments).status == 0
    assert_same(run, finished_run)


def test_a_validation_that_was_cut_is_repeated_once(smoke, finished_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    arguments = [*smoke, f"run_dir={run}", "resume=auto", "trainer.save_every=3"]
    end(monkeypatch, SlidingWindow, "__call__", *arguments, call=1, number=signal.SIGTERM)
    # killed after the row of the repeated validation, before a checkpoint
    monkeypatch.setattr(Trainer, "train_step", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_command(train.main, *arguments).status == 130
    monkeypatch.undo()
    assert [row["step"] for row in rows(run)] == [1, 2, 2]
    assert run_command(train.main, *arguments).status == 0
    assert rows(run) == rows(finished_run)


def test_damaged_lines_are_removed_and_named(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"st\n{"step": 3, "train/loss": 1}\n{"step": 3}\n{"step": 4}\n')
    cut_after(file, step=3)
    assert f"{file}: removed damaged line(s) 2; all others are kept" in caplog.text
    assert file.read_text() == '{"step": 1}\n{"step": 3, "train/loss": 1}\n{"step": 3}\n'
    cut_after(file, step=3, to_validate=True)
    assert file.read_text() == '{"step": 1}\n{"step": 3, "train/loss": 1}\n'


def test_auto_takes_the_run_with_the_most_steps_when_clocks_disagree(smoke, finished_run, workplace, tmp_path):
    runs = tmp_path / "smoke"
    for name, removed in (("2031-01-01_00-00-00", 1), ("2019-01-01_00-00-00", 0), ("2032-01-01_00-00-00", 2)):
        run = Path(shutil.copytree(finished_run, runs / name))
        (run / "finished").unlink()
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace(f"{workplace}/runs", str(tmp_path)))
        for path in checkpoint.step_files(run)[:removed]:
            path.unlink()
    outcome = run_command(train.main, *smoke, f"paths.outputs={tmp_path}", "resume=auto")
    assert outcome.status == 0, outcome
    assert (runs / "2019-01-01_00-00-00" / "finished").exists()


FILES = {
    "config.yaml": "damaged: it is made again from the newest checkpoint",
    "overrides.json": "is made again from",
    "card.json": "is made again, without its history",
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_side_file_is_made_again(run_copy, finished_run, name):
    (run_copy / name).write_bytes(b"\0" * 300)
    outcome = run_command(train.main, f"resume={run_copy}")
    assert outcome.status == 0, outcome
    assert FILES[name] in outcome.out + outcome.err
    if name != "card.json":  # a card has circumstances in it
        assert (run_copy / name).read_text() == (finished_run / name).read_text()
    json.loads((run_copy / "card.json").read_text())
    assert_same(run_copy, finished_run)


def test_damaged_overrides_and_card_are_one_message(run_copy):
    for name in ("overrides.json", "card.json"):
        (run_copy / name).write_text("{")
    assert_one_message(run_command(train.main, f"resume={run_copy}"), "overrides.json", "card.json", "Restore one")


def test_damaged_best_weights_are_told_and_made_again(run_copy):
    best = run_copy / checkpoint.FOLDER / "best.pt"
    best.write_bytes(flipped(best.read_bytes(), bit=9999))
    outcome = run_command(predict.main, f"ckpt={run_copy}", "input=none.nii.gz", f"output={run_copy}/out")
    assert_one_message(outcome, f"{best} is damaged", "Copy it again")
    outcome = run_command(train.main, f"resume={run_copy}", "trainer.max_steps=6")
    assert f"{best} is damaged (its checksum differs): the next validation makes it again" in outcome.out
    assert checkpoint.load(best)["step"] == 6


def test_weights_that_are_not_finite_predict_nothing(run_copy, tmp_path):
    best = run_copy / checkpoint.FOLDER / "best.pt"
    state = checkpoint.load(best)
    name = next(name for name, value in state["model"].items() if value.is_floating_point())
    state["model"][name].view(-1)[0] = float("nan")
    checkpoint.save({key: state[key] for key in state if key != "format"}, best)
    image = next(Path(state["config"]["data"]["root"]).rglob("img/*.nii.gz"))
    outcome = run_command(predict.main, f"ckpt={run_copy}", f"input={image}", f"output={tmp_path}/out")
    assert_one_message(outcome, best, name, "NaN or infinite")
    assert not (tmp_path / "out").exists()


def test_a_prediction_that_is_ended_keeps_what_it_has_written(run_copy, workplace, tmp_path, monkeypatch):
    images = sorted((workplace / "data" / "phantom_smoke").rglob("img/*.nii.gz"))[:3]
    (tmp_path / "in").mkdir()
    for image in images:
        shutil.copy(image, tmp_path / "in")
    arguments = (f"ckpt={run_copy}", f"input={tmp_path}/in", f"output={tmp_path}/out")
    labels, calls = SlidingWindow.__call__, []

    def signalled(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return labels(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SlidingWindow, "__call__", signalled)
        outcome = run_command(predict.main, *arguments)
    assert outcome.status == 143, outcome
    assert "What is predicted is whole and stays. The same command goes on" in outcome.err
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")}
    assert len(written) == 2
    assert not list((tmp_path / "out").rglob("unfinished/*/*"))
    assert not list((tmp_path / "out").rglob("locks/*"))
    outcome = run_command(predict.main, *arguments)
    assert "3 cases: 1 predicted now, 2 were there already, 0 failed" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in written} == written


PLACES = {"append_line": loggers, "write_past_cache": blocks, "write_text": trainer}


@pytest.mark.parametrize(
    "where", ["append_line", "write_past_cache", pytest.param("write_text", marks=pytest.mark.long)]
)
def test_a_full_disk_is_one_message_and_blocks_no_later_try(smoke, finished_run, tmp_path, monkeypatch, where):
    run = tmp_path / "run"

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    module = PLACES[where]
    with monkeypatch.context() as patch:
        patch.setattr(module, where, full)
        outcome = run_command(train.main, *smoke, f"run_dir={run}")
    assert_one_message(outcome, "No space left on device", "Make room")
    assert run_command(train.main, *smoke, f"run_dir={run}", "resume=auto").status == 0
    assert_same(run, finished_run)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_log_that_can_not_be_written_is_told_once(tmp_path, capsys):
    handler = RunLog(tmp_path / "train.log")
    handler.stream.close()
    handler.stream = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    log = logging.Logger("own")
    log.addHandler(handler)
    for _ in range(3):
        log.warning("something")
    handler.close()
    assert capsys.readouterr().err == f"{tmp_path}/train.log can't be written (No space left on device)\n"
