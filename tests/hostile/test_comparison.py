"""A comparison whose folder holds runs of a stranger: what they say is data, and damage is one message."""

import json
import shutil

import pytest
from hostile_files import change_config, put

from sct.compare.__main__ import main as compare
from sct.compare.cells import Cell
from sct.compare.methods import TABLES

TIMER = {"_target_": "torch.utils.benchmark.Timer"}
SUMMARY = {"n_missed": 0, "meta": {}, "dice": {"mean": 0.5}}
PROFILE = {"macs": {"total": 2e9, "encoder": 1e9}}


@pytest.fixture
def cell(stage, run):
    """The folder of a network that a comparison takes as finished."""
    folder = stage.out / "unetr_thin_dense_seed0"
    stage.out.mkdir()
    shutil.move(run, folder)
    overrides = Cell("unetr_thin", "dense", tuple(TABLES["methods"]["dense"]), 0, folder).overrides
    (folder / "overrides.json").write_text(json.dumps(overrides))
    (folder / "eval/test").mkdir(parents=True)
    (folder / "eval/test/summary.json").write_text(json.dumps(SUMMARY))
    (folder / "profile.json").write_text(json.dumps(PROFILE))
    return folder


def run_comparison() -> None:
    rows = ["--decoders", "unetr_thin", "--methods", "dense", "--repeats", "1", "--windows", "1"]
    compare([*rows, "--output", "out"])


def refused(stage, *words):
    def command() -> None:
        with pytest.raises(SystemExit) as caught:
            run_comparison()
        text = str(caught.value)
        assert text.startswith("Error: ")
        assert all(word in text for word in words), text

    stage.run(command)


def test_an_honest_folder_is_taken(stage, cell):
    stage.run(run_comparison)
    (row,) = json.loads((stage.out / "table.json").read_text())
    assert row["scores"] == {"dice": 0.5}
    assert (row["macs_g"], row["encoder_macs_g"]) == (2.0, 1.0)


@pytest.mark.parametrize("key", ["data.augment.x", "loss", "encoder", "optimizer"])
def test_nothing_is_built_that_a_config_names(stage, cell, key):
    node = {**TIMER, "stmt": f"pass\r{stage.touch()}", "globals": {}}
    change_config(cell, lambda config: put(config, key, node))
    refused(stage, "Timer is not allowed")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("overrides.json", "{", "is not JSON"),
        ("overrides.json", '{"a": 1}', "is no list of overrides"),
        ("overrides.json", "[1, 2]", "is no list of overrides"),
        ("eval/test/summary.json", "[" * 100_000, "it is not JSON"),
        ("eval/test/summary.json", "[]", "lacks a value"),
        ("eval/test/summary.json", '{"n_missed": "many", "meta": {}}', "lacks a value"),
        ("eval/test/summary.json", '{"n_missed": 0, "meta": {}, "dice": {"mean": [1]}}', "lacks a value"),
        ("profile.json", "null", "lacks a value"),
        ("profile.json", '{"macs": {"total": 1}}', "lacks a value"),
    ],
)
def test_damage_is_one_message(stage, cell, name, text, words):
    (cell / name).write_text(text)
    refused(stage, name, words)
