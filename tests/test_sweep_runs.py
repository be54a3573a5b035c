"""Sweeps as they run: every job in a folder that tells it, none repeated, none lost with another, also when killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import assert_one_message, files_of, run_command
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from test_run import interrupt, last_state, rows, same_weights

from sct import eval as evaluation
from sct import report, train
from sct.config.saved import resumed_arguments
from sct.errors import UserError
from sct.runs.folder import Plan, best_score, opened
from sct.runtime import checkpoint
from sct.runtime.distributed import Processes, pick_device


def runs(outputs: Path) -> list[Path]:
    return sorted(path.parent for path in outputs.glob("*/*/config.yaml"))


def test_once_repeats_no_finished_run_and_tells_its_score(smoke, tmp_path):
    command = ["-m", *smoke, f"paths.outputs={tmp_path}", "resume=once"]
    assert run_command(train.main, *command, "seed=0,1").status == 0
    before = files_of(tmp_path / "smoke")
    outcome = run_command(train.main, *command, "seed=1,2")
    assert outcome.status == 0, outcome
    known, new = runs(tmp_path)[1:]
    assert {name: files_of(tmp_path / "smoke")[name] for name in before} == before
    assert [OmegaConf.load(run / "config.yaml").seed for run in runs(tmp_path)] == [0, 1, 2]
    best = checkpoint.load(known / "checkpoints" / "best.pt")["best"]["val/dice/mean"]
    assert best_score(known, metric="val/dice/mean") == best
    assert f"done already, best val/dice/mean {best:.4f}: {known}" in outcome.out
    assert str(new) in outcome.out


def test_once_goes_on_with_an_unfinished_run(smoke, finished_run, tmp_path, monkeypatch):
    command = [f"paths.outputs={tmp_path}", "resume=once"]
    interrupt(smoke, monkeypatch, *command, after=3)
    assert run_command(train.main, *smoke, *command).status == 0
    (run,) = runs(tmp_path)
    assert rows(run) == rows(finished_run)
    assert same_weights(run, finished_run)


def test_once_knows_its_own_folder(smoke, finished_run):
    before = files_of(finished_run)
    outcome = run_command(train.main, *smoke, f"run_dir={finished_run}", "resume=once")
    assert outcome.status == 0, outcome
    assert "done already" in outcome.out
    assert files_of(finished_run) == before
    outcome = run_command(train.main, *smoke, f"run_dir={finished_run}", "resume=once", "seed=4")
    assert_one_message(outcome, "another config", "seed")


def test_the_folder_of_a_job_tells_what_it_is(smoke, tmp_path):
    settings = [*smoke[1:], f"paths.outputs={tmp_path}", "trainer.max_steps=1", "pruning.blocks=[1],[1,3]"]
    outcome = run_command(train.main, "+sweep=stp_ratio", "+variant=ratio_50", *settings)
    assert outcome.status == 0, outcome
    labels = [run.name.split("_", 2)[2] for run in runs(tmp_path)]
    assert labels == [
        f"hippocampus_stp_mta_ratio_50_decoder-unetr_thin_tensorboard-False_max_steps-1_blocks-{places}"
        for places in ("1", "1-3")
    ]
    overrides = [json.loads((run / "overrides.json").read_text()) for run in runs(tmp_path)]
    assert {"+variant=ratio_50", "pruning.blocks=[1]", "+experiment=hippocampus_stp_mta"} <= set(overrides[0])
    assert "pruning.blocks=[1,3]" in overrides[1]
    configs = [OmegaConf.load(run / "config.yaml") for run in runs(tmp_path)]
    assert [list(cfg.encoder.reducer.blocks) for cfg in configs] == [[1], [1, 3]]
    # and it goes on alone, not as the sweep that it is from
    outcome = run_command(train.main, f"resume={runs(tmp_path)[0]}", "trainer.max_steps=2")
    assert outcome.status == 0, outcome
    assert [last_state(run)["step"] for run in runs(tmp_path)] == [2, 1]


def test_a_job_resumed_by_its_folder_is_no_sweep(tmp_path):
    (tmp_path / "overrides.json").write_text('["+experiment=demo", "+sweep=stp_ratio"]')
    command = [f"resume={tmp_path}", "seed=1"]
    assert resumed_arguments(command) == ["+experiment=demo", "+sweep=stp_ratio", "hydra.mode=RUN", *command]


def test_a_mistake_in_one_job_leaves_the_others_alone(smoke, tmp_path):
    settings = [f"paths.outputs={tmp_path}", "encoder.num_heads=5,2"]
    outcome = run_command(train.main, "-m", *smoke, *settings)
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    assert outcome.err.count("num_heads=5") == 2, "once by us, once by Hydra"
    assert "Some jobs of the sweep failed" in outcome.err
    (run,) = runs(tmp_path)
    assert (run / "finished").exists()


def test_the_score_reaches_the_sweeper(smoke, tmp_path, monkeypatch):
    """Hydra returns to the sweeper what its task returns: Optuna needs it."""
    told = []
    # Hydra imports its plugins itself, so that the class of their module may be another one
    (basic,) = [plugin for plugin in Plugins.instance().discover(Launcher) if plugin.__name__ == "BasicLauncher"]
    launch = basic.launch

    def listening(self, *arguments, **keywords):
        results = launch(self, *arguments, **keywords)
        told.extend(result.return_value for result in results)
        return results

    monkeypatch.setattr(basic, "launch", listening)
    for _ in range(2):  # trained, then only told
        assert run_command(train.main, "-m", *smoke, f"paths.outputs={tmp_path}", "resume=once").status == 0
    (run,) = runs(tmp_path)
    assert told == [best_score(run, metric="val/dice/mean")] * 2


def test_a_run_that_another_process_went_on_with_is_left_alone(run_copy):
    config = OmegaConf.to_container(OmegaConf.load(run_copy / "config.yaml"))
    before = files_of(run_copy)
    # planned before there was any checkpoint
    plan = Plan(config, [], run_copy, newest=None, done=False)
    processes = Processes(rank=0, world_size=1, device=pick_device("cpu"))
    with pytest.raises(UserError, match="in the meantime"), opened(plan, processes=processes):
        pass
    assert files_of(run_copy) == before


SWEEPS = {
    "stp_ratio": ["seed=0,1"],
    "dtop_context": ["data.lookalikes=false", "data.voxel_size=[5.0,5.0,8.0]"],
}


def sweep(name: str, outputs: Path, *, data: Path) -> subprocess.Popen:
    settings = ["+debug=smoke", "trainer.tensorboard=false", f"paths.data={data}", f"paths.outputs={outputs}"]
    steps = ["trainer.max_steps=12", "trainer.validate_every=3"]
    command = [sys.executable, "-m", "sct.train", f"+sweep={name}", *settings, *steps, *SWEEPS[name]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (outputs.parent / f"{outputs.name}.log").open("a")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def by_job(outputs: Path) -> dict[str, Path]:
    """The runs by what they were started with, but for places."""
    found = {}
    for run in runs(outputs):
        overrides = json.loads((run / "overrides.json").read_text())
        job = " ".join(override for override in overrides if not override.startswith("paths."))
        assert job not in found, f"{job} has two folders"
        found[job] = run
    return found


def table(outputs: Path) -> str:
    """What the report says of all runs, evaluated on their test cases."""
    for run in runs(outputs):
        assert run_command(evaluation.main, f"ckpt={run}", "save_predictions=false", "figures=0").status == 0
    folder = outputs.parent / f"{outputs.name}_report"
    outcome = run_command(report.main, f"runs={outputs}", f"output={folder}", "classes=true")
    assert outcome.status == 0, outcome
    return (folder / "table.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_that_is_killed_half_way_ends_as_an_undisturbed_one(name, tmp_path):
    assert sweep(name, tmp_path / "undisturbed", data=tmp_path / "data").wait() == 0
    expected = by_job(tmp_path / "undisturbed")
    outputs = tmp_path / "killed"
    process = sweep(name, outputs, data=tmp_path / "data")
    half = len(expected) // 2
    # in the middle of the run after the first half
    while len(runs(outputs)) <= half or not checkpoint.step_files(runs(outputs)[half]):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    torn = runs(outputs)[half]
    assert not (torn / "finished").exists()
    done = {run: files_of(run) for run in runs(outputs)[:half]}
    assert sweep(name, outputs, data=tmp_path / "data").wait() == 0
    assert {run: files_of(run) for run in done} == done
    found = by_job(outputs)
    assert found.keys() == expected.keys()
    assert torn in found.values()
    for job, run in found.items():
        assert (run / "finished").exists()
        assert rows(run) == rows(expected[job])
        assert same_weights(run, expected[job])
    assert table(outputs) == table(tmp_path / "undisturbed")
    # and once more, to see that all is done
    everything = {run: files_of(run) for run in found.values()}
    assert sweep(name, outputs, data=tmp_path / "data").wait() == 0
    assert {run: files_of(run) for run in runs(outputs)} == everything
