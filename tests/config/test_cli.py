"""Mistakes on the command line and in config files: one message with key, place and remedy, and nothing written."""

import subprocess
import sys

import pytest
from commands import assert_one_message, files_of, run_command

from sct import eval as evaluation
from sct import predict, train
from sct.config.command import nearest_key
from sct.tasks import train as training

FILES = {
    "misspelt": "# @package _global_\ntrainer:\n  max_stps: 5\n",
    "misspelt_in_group": "# @package _global_\nencoder:\n  dimm: 5\n",
    "misspelt_section": "# @package _global_\ntrianer:\n  max_steps: 5\n",
    "no_package": "trainer:\n  max_steps: 5\n",
    "bad_type": "# @package _global_\ntrainer:\n  max_steps: many\n",
    "bad_group": "# @package _global_\ndefaults:\n  - override /encodr: stp\n",
    "bad_option": "# @package _global_\ndefaults:\n  - override /encoder: stpp\n",
    "not_yaml": "# @package _global_\ntrainer: {max_steps: 5\n",
    "dangling": "# @package _global_\nencoder:\n  mlp_ratio: ${pruning.width}\n",
}
# what the command says, and what its message must name
MISTAKES = {
    "misspelt key": (["trainer.max_stps=5"], ["trainer.max_stps", "Did you mean 'trainer.max_steps'?"]),
    "misspelt key in a group": (["encoder.reducer.rato=0.5"], ["encoder.reducer.rato", "'encoder.reducer.ratio'"]),
    "key without its section": (["lr=1e-3"], ["lr", "Did you mean 'optimizer.lr'?"]),
    "misspelt group": (["encodr=stp"], ["encodr", "Did you mean 'encoder'?"]),
    "misspelt experiment word": (["experimnt=demo"], ["Did you mean '+experiment'?"]),
    "misspelt key with plus": (["+trainer.max_stps=5"], ["trainer.max_stps", "Did you mean 'max_steps'?"]),
    "misspelt key with plus in a group": (["+encoder.dimm=5"], ["encoder.dimm", "Did you mean 'dim'?"]),
    "misspelt key with plus at the root": (["+sed=5"], ["sed", "Did you mean 'seed'?"]),
    "existing key with plus": (["+trainer.max_steps=5"], ["trainer.max_steps", "remove + prefix"]),
    "unknown group option": (["encoder=stpp"], ["no encoder=stpp", "Did you mean 'stp'?"]),
    "group with plus": (["+encoder=dense"], ["encoder=NAME"]),
    "group without value": (["encoder=null"], ["must be a string"]),
    "no key at all": (["demo"], ["'demo'", "KEY=VALUE"]),
    "open bracket": (["data.roi_size=[16,16"], ["data.roi_size=[16,16", "Quote"]),
    "bad type": (["trainer.max_steps=abc"], ["trainer.max_steps", "'abc'", "Integer"]),
    "bad type in a group": (["encoder.dim=abc"], ["encoder.dim=abc", "a whole number"]),
    "ratio out of range": (["pruning.ratio=1.5"], ["encoder.reducer.ratio=1.5", "below 1"]),
    "steps out of range": (["trainer.max_steps=0"], ["trainer.max_steps=0", "at least 1"]),
    "roi not divisible by the patch": (["data.roi_size=[16,16,12]"], ["data.roi_size", "encoder.patch_size=8"]),
    "roi not divisible by a patch by axis": (
        ["data.roi_size=[16,16,10]", "encoder.patch_size=[8,8,4]"],
        ["data.roi_size", "encoder.patch_size=[8,8,4]", "multiples of [8,8,4]"],
    ),
    "patch of another number of axes": (["encoder.patch_size=[8,8]"], ["encoder.patch_size=[8, 8]", "3 axes"]),
    "patch that is no number": (["encoder.patch_size=[8,8,a]"], ["encoder.patch_size=[8, 8, 'a']", "must be"]),
    "patch that no doubling leads to": (
        ["encoder.patch_size=[8,8,6]", "data.roi_size=[16,16,12]"],
        ["encoder.patch_size=[8,8,6]", "power of two along each axis"],
    ),
    "blocks beyond the depth": (["pruning.blocks=[2,30]"], ["encoder.reducer.blocks=[2, 30]", "encoder.depth"]),
    "heads do not divide the width": (["encoder.num_heads=5"], ["dim=24", "num_heads=5"]),
    "taps that do not fit the decoder": (
        ["encoder=dense", "completion=scatter", "encoder.taps=1"],
        ["encoder.taps=2", "decoder=unetr"],
    ),
    "odd grid under the deep decoder": (
        ["decoder=unetr_deep", "data.roi_size=[24,24,24]"],
        ["decoder.layout=deep", "data.roi_size"],
    ),
    "mandatory value": (["trainer.device=???"], ["trainer.device is not set", "trainer.device=VALUE"]),
    "forbidden target": (["loss._target_=os.system"], ["loss._target_=os.system", "not allowed"]),
    "forbidden target by detour": (["loss._target_=monai.utils.module.sys.exit"], ["loss._target_", "not allowed"]),
    "unknown precision": (["trainer.precision=fp8"], ["trainer.precision=fp8", "bf16"]),
    "unknown device": (["trainer.device=gpu"], ["device=gpu", "trainer.device", "cuda"]),
    "device that is not here": (["trainer.device=cuda:99"], ["device=cuda:99", "trainer.device", "cpu"]),
    "negative warm-up": (["schedule.warmup_steps=-1"], ["schedule.warmup_steps=-1", "0 or more"]),
    "unknown best metric": (["trainer.best_metric=val/dice/livr"], ["val/dice/livr", "'val/dice/liver'"]),
    "unknown cache": (["data.cache=ram"], ["data.cache=ram", "memory"]),
    "run folder is a file": (["run_dir=/dev/null/x"], ["run folder", "run_dir"]),
    "checkpoint of another use": (["ckpt=/nowhere"], ["ckpt=/nowhere", "resume=RUN_FOLDER"]),
    "resume from nothing": (["resume=/nowhere"], ["resume=/nowhere", "not a run folder"]),
}
FILE_MISTAKES = {
    "misspelt": ["trainer.max_stps", "experiment/misspelt.yaml", "Did you mean 'trainer.max_steps'?"],
    "misspelt_in_group": ["encoder.dimm", "config file", "Did you mean 'dim'?"],
    "misspelt_section": ["trianer", "experiment/misspelt_section.yaml", "Did you mean 'trainer'?"],
    "no_package": ["experiment/no_package.yaml", "# @package _global_"],
    "bad_type": ["trainer.max_steps", "experiment/bad_type.yaml", "'many'"],
    "bad_group": ["encodr", "experiment/bad_group.yaml", "Did you mean 'encoder'?"],
    "bad_option": ["no encoder=stpp", "Did you mean 'stp'?"],
    "not_yaml": ["not valid YAML", "not_yaml.yaml", "line 2"],
    "dangling": ["encoder.mlp_ratio", "pruning.width"],
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_on_the_command_line(mistake, smoke, tmp_path):
    arguments, words = MISTAKES[mistake]
    outcome = run_command(train.main, *smoke, f"run_dir={tmp_path}/run", *arguments)
    assert_one_message(outcome, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_mistake_in_an_experiment_file(name, smoke, tmp_path):
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / f"{name}.yaml").write_text(FILES[name])
    run = tmp_path / "run"
    outcome = run_command(
        train.main, "--config-dir", folder.parent, f"+experiment={name}", *smoke[1:], f"run_dir={run}"
    )
    assert_one_message(outcome, *FILE_MISTAKES[name])
    assert not run.exists()


def test_unknown_experiment_lists_those_there_are(smoke, tmp_path):
    outcome = run_command(train.main, "+experiment=dmo", *smoke[1:], f"run_dir={tmp_path}/run")
    assert_one_message(outcome, "experiment=dmo", "Did you mean 'demo'?", "btcv_stp_mta")


def test_experiment_without_plus(smoke, tmp_path):
    outcome = run_command(train.main, "experiment=demo", *smoke[1:], f"run_dir={tmp_path}/run")
    assert_one_message(outcome, "+experiment=NAME", "btcv_stp_mta")


def test_mistakes_leave_an_existing_run_alone(smoke, run_copy):
    before = files_of(run_copy)
    for arguments in (
        ["resume=null"],
        ["resume=auto", "encoder.dim=48"],
        ["resume=auto", "trainer.max_stps=9"],
        ["resume=auto", "data.root=/nowhere"],
    ):
        assert_one_message(run_command(train.main, *smoke, f"run_dir={run_copy}", *arguments))
    for arguments in (["encoder.dim=48"], ["trainer.max_steps=0"], ["optimizer.layer_decay=0.5"], ["run_dir=/tmp"]):
        assert_one_message(run_command(train.main, f"resume={run_copy}", *arguments))
    assert files_of(run_copy) == before


def test_mistakes_in_evaluation_and_prediction(finished_run, tmp_path):
    before = files_of(finished_run)
    run = f"ckpt={finished_run}"
    for main, arguments, words in (
        (evaluation.main, [], ["ckpt is not set", "ckpt=VALUE"]),
        (evaluation.main, ["ckpt=/nowhere"], ["ckpt=/nowhere", "run folder"]),
        (evaluation.main, [run, "splt=val"], ["splt", "Did you mean 'split'?"]),
        (evaluation.main, [run, "+splt=val"], ["splt", "Did you mean 'split'?"]),
        (evaluation.main, [run, "split=train"], ["split=train", "val"]),
        (evaluation.main, [run, "weights=good"], ["weights='good'", "best or last"]),
        (evaluation.main, [run, "device=gpu"], ["device=gpu", "cuda"]),
        (evaluation.main, [run, "precision=fp8"], ["precision=fp8", "bf16"]),
        (evaluation.main, [run, "inferer.overlp=0.1"], ["inferer.overlp", "Did you mean 'overlap'?"]),
        (evaluation.main, [run, "inferer=fsat"], ["no inferer=fsat", "Did you mean 'fast'?", "sliding_window"]),
        (evaluation.main, [run, "inferer=fast"], ["inferer differ", "output=FOLDER"]),
        (evaluation.main, [run, "inferer=fast", "inferer.skip_blow=0"], ["inferer.skip_blow", "'skip_below'"]),
        (predict.main, [run, "input=/nowhere", "output=/nowhere", "inferer.skip_below=0"], ["inferer.skip_below"]),
        (evaluation.main, [run, "data.rot=/nowhere"], ["data.rot", "Did you mean 'root'?"]),
        (evaluation.main, [run, "inferer.overlap=1.5"], ["inferer.overlap=1.5"]),
        (predict.main, [run, f"output={tmp_path}/out"], ["input is not set", "input=VALUE"]),
        (predict.main, [run, "input=/nowhere", f"output={tmp_path}/out"], ["input=/nowhere", "NIfTI"]),
    ):
        assert_one_message(run_command(main, *arguments), *words)
    assert files_of(finished_run) == before
    assert not list(tmp_path.iterdir())


def test_a_real_command_gives_only_the_message(tmp_path):
    command = [sys.executable, "-m", "sct.train", "+experiment=demo", "trainer.max_stps=5"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert (
        result.stderr == "Error: Unknown key trainer.max_stps on the command line. Did you mean 'trainer.max_steps'?\n"
    )
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_commands_explain_themselves(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = run_command(train.main, "+experiment=btcv_stp_mta", "-c", "job")
    assert shown.status == 0
    assert "max_steps: 45000" in shown.out
    page = run_command(train.main, "--help")
    assert page.status == 0
    assert "\n+experiment=NAME\n" in page.out
    assert "btcv_dense_unetr" in page.out
    assert not list(tmp_path.iterdir())


def test_bugs_keep_their_traceback(smoke, monkeypatch):
    def broken(cfg, *, trust):
        raise ZeroDivisionError

    monkeypatch.setattr(training, "plan_run", broken)
    with pytest.raises(ZeroDivisionError):
        run_command(train.main, *smoke)


def test_the_nearest_key_is_beside_or_of_the_same_name():
    known = ["seed", "data", "data.seed", "data.root", "trainer", "trainer.max_steps"]
    assert nearest_key("data.sed", known) == "Did you mean 'data.seed'?"
    assert nearest_key("max_steps", known) == "Did you mean 'trainer.max_steps'?"
    assert nearest_key("data.zzzzz", known) == "Known there: data.seed, data.root."
    assert nearest_key("zzzzz.y", known) == "Known there: seed, data, trainer."


@pytest.mark.parametrize("setting", ["trainer.max_stps=5", "trainer.max_steps=0", "encoder.dim=abc", "+sed=5"])
def test_of_several_processes_the_first_tells_what_is_wrong_in_a_config(setting, smoke, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    outcome = run_command(train.main, *smoke, setting)
    assert (outcome.status, outcome.err) == (1, "")
    monkeypatch.setenv("RANK", "0")
    assert_one_message(run_command(train.main, *smoke, setting), setting.lstrip("+").split("=")[0])
