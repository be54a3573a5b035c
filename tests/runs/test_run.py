"""Run folders: which one a command trains in, under which config, and what resuming does to its files."""

import errno
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import assert_one_message, files_of, run_command
from omegaconf import OmegaConf

from sct import train
from sct.config.saved import resumed_arguments
from sct.errors import UserError
from sct.runs.folder import locked, new_folder
from sct.runtime import checkpoint
from sct.training.loggers import RunLogger, cut_after
from sct.training.trainer import Trainer


def rows(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl, without times and memory."""
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in lines]


def last_state(run: Path) -> dict:
    return checkpoint.load(checkpoint.step_files(run)[0])


def same_weights(run: Path, other: Path) -> bool:
    a, b = last_state(run)["model"], last_state(other)["model"]
    return all(torch.equal(a[name], b[name]) for name in b)


def interrupt(smoke: list[str], monkeypatch, *settings: str, after: int) -> None:
    """A training that is interrupted after some steps."""
    original, calls = Trainer.train_step, itertools.count()

    def train_step(self, batches):
        if next(calls) == after:
            raise KeyboardInterrupt
        return original(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        outcome = run_command(train.main, *smoke, *settings)
    assert outcome.status == 130
    assert "resume=auto" in outcome.err


def test_a_finished_run_has_everything(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert {"config.yaml", "overrides.json", "metrics.jsonl", "train.log", "finished", "checkpoints"} <= names
    assert [row["step"] for row in rows(finished_run)] == [1, 2, 2, 3, 4, 4]
    log = (finished_run / "train.log").read_text()
    assert "step 4/4" in log
    assert log.count("computing in fp32: set by trainer.precision=fp32") == 1
    assert last_state(finished_run)["number_format"] == "fp32"


def test_an_interrupted_run_goes_on_exactly(smoke, finished_run, tmp_path, monkeypatch):
    interrupt(smoke, monkeypatch, f"run_dir={tmp_path}/run", after=3)
    assert last_state(tmp_path / "run")["step"] == 2
    assert run_command(train.main, *smoke, f"run_dir={tmp_path}/run", "resume=auto").status == 0
    assert rows(tmp_path / "run") == rows(finished_run)
    assert same_weights(tmp_path / "run", finished_run)


def test_auto_goes_on_with_the_unfinished_run_of_this_config(smoke, tmp_path, monkeypatch):
    place = f"paths.outputs={tmp_path}"
    assert run_command(train.main, *smoke, place).status == 0
    interrupt(smoke, monkeypatch, place, "seed=3", after=3)
    interrupt(smoke, monkeypatch, place, after=3)
    folders = sorted((tmp_path / "smoke").iterdir())
    assert len(folders) == 3
    assert run_command(train.main, *smoke, place, "resume=auto").status == 0
    assert [(folder / "finished").exists() for folder in folders] == [True, False, True]
    # none of this config is unfinished now
    outcome = run_command(train.main, *smoke, place, "resume=auto")
    assert "differs in seed" in outcome.out
    assert len(list((tmp_path / "smoke").iterdir())) == 4


def test_auto_goes_on_with_a_run_of_a_version_that_lacked_a_setting(smoke, tmp_path, monkeypatch):
    place = f"paths.outputs={tmp_path}"
    interrupt(smoke, monkeypatch, place, after=3)
    (folder,) = (tmp_path / "smoke").iterdir()
    saved = OmegaConf.load(folder / "config.yaml")
    del saved.encoder.reducer["neighbours"]
    OmegaConf.save(saved, folder / "config.yaml")
    outcome = run_command(train.main, *smoke, place, "resume=auto", "encoder.reducer.neighbours=0.5")
    assert "differs in encoder.reducer.neighbours" in outcome.out
    assert run_command(train.main, *smoke, place, "resume=auto").status == 0
    assert (folder / "finished").exists()


def test_a_path_means_the_config_of_that_run_and_what_the_command_adds(run_copy):
    path = run_copy / "config.yaml"
    saved = OmegaConf.load(path)
    saved.loss.pixel.dice_weight = 0.5  # as if the config files had been others when the run began
    OmegaConf.save(saved, path)
    outcome = run_command(train.main, f"resume={run_copy}", "trainer.max_steps=6", "optimizer.weight_decay=0.2")
    assert outcome.status == 0, outcome
    assert "trainer.max_steps differs from its value at the start of this run" in outcome.out
    cfg = OmegaConf.load(path)
    assert (cfg.name, cfg.encoder.dim, cfg.loss.pixel.dice_weight, cfg.trainer.max_steps) == ("smoke", 24, 0.5, 6)
    state = last_state(run_copy)
    assert state["step"] == 6
    assert {group["weight_decay"] for group in state["optimizer"]["param_groups"]} == {0.0, 0.2}
    # and the next time the same, with nothing said
    assert run_command(train.main, f"resume={run_copy}", "trainer.max_steps=8").status == 0
    cfg = OmegaConf.load(path)
    assert (cfg.name, cfg.encoder.dim, cfg.loss.pixel.dice_weight, cfg.trainer.max_steps) == ("smoke", 24, 0.5, 8)
    assert [row["step"] for row in rows(run_copy)][-3:] == [7, 8, 8]


def test_keys_that_only_the_resumed_run_has_are_known(tmp_path):
    (tmp_path / "overrides.json").write_text('["+experiment=demo", "data=msd", "seed=3"]')
    command = [f"resume={tmp_path}", "seed=4", "data.labels=[background,a]"]
    assert resumed_arguments(command) == ["+experiment=demo", "data=msd", *command]
    assert resumed_arguments(["resume=auto", "seed=4"]) == ["resume=auto", "seed=4"]
    assert resumed_arguments(["seed=4"]) == ["seed=4"]


def test_going_on_with_a_finished_run_changes_no_result(smoke, run_copy, finished_run):
    assert run_command(train.main, f"resume={run_copy}").status == 0
    assert same_weights(run_copy, finished_run)
    assert rows(run_copy) == rows(finished_run)
    assert (run_copy / "finished").exists()


def test_a_run_beyond_its_last_step_is_left_alone(run_copy):
    before = files_of(run_copy)
    assert_one_message(run_command(train.main, f"resume={run_copy}", "trainer.max_steps=3"), "at step 4", "max_steps=4")
    assert files_of(run_copy) == before


def test_other_processes_than_before_are_told(run_copy):
    path = checkpoint.step_files(run_copy)[0]
    state = torch.load(path, weights_only=True)
    torch.save({**state, "world_size": 4}, path)
    outcome = run_command(train.main, f"resume={run_copy}", "trainer.max_steps=5")
    assert outcome.status == 0, outcome
    assert "was trained by 4 processes and is resumed with 1" in outcome.out


def test_a_sweep_gives_every_job_its_folder(smoke, tmp_path):
    outcome = run_command(train.main, "-m", *smoke, f"paths.outputs={tmp_path}", "trainer.max_steps=1", "seed=0,1")
    assert outcome.status == 0, outcome
    configs = [OmegaConf.load(path) for path in sorted((tmp_path / "smoke").glob("*/config.yaml"))]
    assert [cfg.seed for cfg in configs] == [0, 1]


def test_an_average_that_is_switched_on_late_begins_with_the_weights(run_copy):
    settings = ["trainer.max_steps=5", "trainer.ema_decay=0.999999"]
    before = last_state(run_copy)["model"]
    assert run_command(train.main, f"resume={run_copy}", *settings).status == 0
    average = last_state(run_copy)["ema"]
    assert all(torch.allclose(average[name], before[name], atol=1e-6) for name in before)


def test_rows_after_the_checkpoint_and_a_torn_one_are_cut(run_copy, finished_run):
    checkpoint.step_files(run_copy)[0].unlink()
    with (run_copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')
    assert run_command(train.main, f"resume={run_copy}").status == 0
    assert rows(run_copy) == rows(finished_run)
    assert same_weights(run_copy, finished_run)


def test_cut_after_keeps_the_rest(tmp_path):
    file = tmp_path / "metrics.jsonl"
    cut_after(file, step=3)
    assert not file.exists()
    file.write_text('{"step": 1}\n{"step": 3}\n{"step": 4}\n{"st')
    cut_after(file, step=3)
    assert file.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_only_the_main_process_writes_logs(tmp_path):
    log = RunLogger(tmp_path, start_step=0, max_steps=1, is_main=False, tensorboard=True)
    log.log({"a": 1.0}, step=1)
    log.tell("nothing")
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_trained_in_by_one_process_only(smoke, run_copy):
    holder = (
        "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(run_copy / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        before = files_of(run_copy)
        assert_one_message(run_command(train.main, f"resume={run_copy}"), str(run_copy), "Another process")
        assert files_of(run_copy) == before
        other.kill()
    assert run_command(train.main, f"resume={run_copy}").status == 0


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path):
        assert "can't be locked" in caplog.text
    monkeypatch.undo()
    with locked(tmp_path), pytest.raises(UserError, match="Another process"), locked(tmp_path):
        pass


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path):
    assert len({new_folder(tmp_path) for _ in range(5)}) == 5


def test_a_full_disk_is_one_message(smoke, tmp_path, monkeypatch):
    def full(state, file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        outcome = run_command(train.main, *smoke, f"run_dir={tmp_path}/run")
    assert_one_message(outcome, "No space left on device", "paths.outputs")


@pytest.mark.parametrize("place", ["checkpoints/step_00000004.pt", "checkpoints", "nothing"])
def test_resume_wants_a_run_folder(run_copy, place):
    assert_one_message(run_command(train.main, f"resume={run_copy / place}"), f"resume={run_copy / place}", "folder")
