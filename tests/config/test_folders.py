"""Config folders of the user: where they are searched, and what their files can do."""

import logging
import re
import sys
from pathlib import Path

import pytest
from commands import assert_one_message, run_command

from sct import train
from sct.config.check import check_config, resolve_target
from sct.config.command import compose_config
from sct.config.folders import CONFIG_DIR, given_folders, hidden_files, options, own_folders
from sct.config.trust import Trust
from sct.errors import UserError
from sct.tasks import train as training

FILES = {
    "encoder/mine.yaml": "defaults: [stp, _self_]\ndim: 48\n",
    "data/mine.yaml": "defaults: [phantom, _self_]\nseed: 7\n",
    "experiment/mine.yaml": "# @package _global_\ndefaults: [demo, override /encoder: mine]\nname: mine\n",
    "sweep/mine.yaml": "# @package _global_\nhydra: {sweeper: {params: {encoder: 'mine,dense'}}}\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A working directory with a configs folder of its own."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "configs", FILES)
    return tmp_path


@pytest.fixture
def seen(monkeypatch) -> list:
    """The configs that a command would train; nothing is trained."""
    found: list = []
    monkeypatch.setattr(training, "train", lambda cfg: found.append(cfg) or 0.0)
    return found


def test_groups_and_experiments_in_the_working_directory_are_found(home):
    assert own_folders() == [home / "configs"]
    assert {"mine", "stp"} <= set(options("encoder"))
    cfg = compose_config("train", overrides=["+experiment=mine", "data=mine"])
    assert (cfg.name, cfg.encoder.dim, cfg.encoder.depth, cfg.data.seed) == ("mine", 96, 4, 7)
    check_config(cfg)


def test_a_given_folder_comes_before_that_of_the_working_directory(home, seen):
    write(home / "mine", {"encoder/mine.yaml": "defaults: [stp, _self_]\ndim: 64\n"})
    for option in (["--config-dir", "mine"], ["--config-dir=mine"], ["-cd", "mine"]):
        assert list(given_folders(option)) == [Path("mine")]
        assert run_command(train.main, *option, "encoder=mine", "data=mine").status == 0
    assert [(cfg.encoder.dim, cfg.data.seed) for cfg in seen] == [(64, 7)] * 3
    assert_one_message(run_command(train.main, "--config-dir", "nowhere"), "nowhere", "not found")


def test_configs_are_composed_from_a_given_folder_outside_of_a_command_too(home, monkeypatch):
    write(home / "mine", {"encoder/other.yaml": "defaults: [stp, _self_]\ndim: 64\n"})
    monkeypatch.setattr(sys, "argv", ["sct", "--config-dir", "mine"])
    assert compose_config("train", overrides=["encoder=other"]).encoder.dim == 64
    assert "other" in options("encoder")


def test_own_sweeps_run(home, seen):
    assert run_command(train.main, "-m", "+sweep=mine").status == 0
    assert [cfg.encoder.dim for cfg in seen] == [48, 768]


def test_the_help_lists_own_files_and_messages_know_them(home):
    page = run_command(train.main, "--help").out
    # below the line of its group, each choice has a line of its own
    groups = dict(zip(*[iter(re.split(r"(?m)^(\S+)=NAME.*\n", page)[1:])] * 2, strict=True))
    for group in ("encoder", "+experiment", "+sweep"):
        assert re.search(r"(?m)^  mine\b", groups[group])
    outcome = run_command(train.main, "encoder=mien")
    assert_one_message(outcome, "no encoder=mien", "Did you mean 'mine'?", home / "configs", CONFIG_DIR)
    outcome = run_command(train.main, "+experiment=mine", "encoder.dimm=3")
    assert_one_message(outcome, "Did you mean 'encoder.dim'?")


def test_a_shipped_name_means_the_shipped_file_and_the_other_is_named(home, seen, caplog):
    same = (CONFIG_DIR / "encoder/dense.yaml").read_text()
    write(home / "configs", {"encoder/stp.yaml": "defaults: [dense]\ndim: 1\n", "encoder/dense.yaml": same})
    assert hidden_files() == [(home / "configs/encoder/stp.yaml", CONFIG_DIR / "encoder/stp.yaml")]
    with caplog.at_level(logging.WARNING):
        assert run_command(train.main, "encoder=stp").status == 0
    assert seen[0].encoder.dim == 768
    assert f"{home}/configs/encoder/stp.yaml is not read" in caplog.text
    assert "dense.yaml" not in caplog.text


def test_a_checkout_is_searched_once(monkeypatch):
    monkeypatch.chdir(CONFIG_DIR.parent)
    assert own_folders() == []
    monkeypatch.setattr(sys, "argv", ["sct", "--config-dir", str(CONFIG_DIR)])
    assert own_folders() == []
    assert hidden_files() == []


def test_the_working_directory_is_searched_for_packages_last(home, seen, monkeypatch):
    places: list[list[str]] = []
    monkeypatch.setattr(training, "train", lambda cfg: places.append(sys.path[:]))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(home))])
    assert run_command(train.main).status == 0
    assert places[0] == sys.path
    searched = [*sys.path, str(home)]
    with pytest.raises(UserError, match="or lie in the working directory"):
        resolve_target("nopackage.Reducer", key="encoder.reducer", trust=Trust())
    assert sys.path == searched
