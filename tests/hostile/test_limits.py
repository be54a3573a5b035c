"""Overrides, configs and cards of a run: known settings and plain values of a bounded size, or one message."""

import json
from pathlib import Path

import pytest
from hostile_files import LEAK, changed_card
from omegaconf import OmegaConf

from sct import verify
from sct.config.saved import is_saved, resumed_arguments, saved_overrides
from sct.errors import UserError
from sct.runs.card import read_card
from sct.runtime.plain import MOST_BYTES, plain_config, read_json, read_yaml_config

# --- the overrides of a run

OVERRIDES = [
    "--config-dir=evil",
    "--multirun",
    "-cd=evil",
    "hydra.searchpath=[evil]",
    "+hydra.job_logging.handlers.x={class: logging.FileHandler, filename: mark}",
    "hydra/launcher=slurm",
    "hydra.run.dir=evil",
    "run_dir=evil",
    "resume=evil",
    "ckpt=evil",
    "plugins=[os]",
    "+found.x=1",
    "encoder=../../evil",
    "encoder=/evil",
    "encoder=C:\\evil",
    "+experiment@hydra=x",
    "unknown=1",
    f"name={LEAK}",
    "name=${oc.create:x}",
    "seed",
    "",
]


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_saved_override_is_a_known_setting_and_no_option(override):
    assert not is_saved(override)


def test_a_resumed_run_brings_its_command_line_no_options_and_no_folders(stage, run):
    kept = ["seed=0", "+experiment=demo", "data.root=../data", "~data.augment.flip", "data.root=${paths.data}/x"]
    folders = ["paths.outputs=victim", "paths={cache: victim}", "data.cache_dir=victim", "++data.cache_dir=victim"]
    (run / "overrides.json").write_text(json.dumps([*OVERRIDES, *kept, *folders]))
    assert saved_overrides(run) == [*kept, *folders]  # on record
    assert resumed_arguments(["resume=run"]) == [*kept, "resume=run"]


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", "[[]]", "null", "[", '"seed=1"', "[" * 100_000])
def test_overrides_are_a_list_of_texts(content, stage, run):
    (run / "overrides.json").write_text(content)
    (run / "card.json").write_text(content)  # it would take the place of one that is no JSON
    with pytest.raises(UserError, match=r"overrides\.json"):
        resumed_arguments(["resume=run"])


# --- sizes


def test_a_config_of_endless_content_is_refused(stage, run):
    bomb = "a: &a [x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=False)
    )
    for text in (
        bomb,
        "a: &a [*a]\n",
        "a: &a {x: 1}\nb: {<<: *a}\n",
        "a: " + "[" * 5000 + "]" * 5000,
        "a: !!set {x}\n",
        "a: !!python/object/apply:os.system [x]\n",
        "a: !!binary eA==\n",
        "[]",
        "- a",
        "a: " + "9" * 5000,
        "\0",
    ):
        (run / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="config"):
            read_yaml_config(run / "config.yaml")


def test_yaml_is_read_as_it_is_written(stage, run):
    config = {
        "a": 1e-05,
        "b": 1e20,
        "c": "2024-01-01",
        "d": "1e-5",
        "e": [None, True, "yes"],
        "f": float("inf"),
        "g": ".5",
    }
    OmegaConf.save(OmegaConf.create(config), stage.here / "config.yaml")
    assert read_yaml_config(stage.here / "config.yaml") == config
    assert read_yaml_config(run / "config.yaml") == OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))


@pytest.mark.parametrize(
    "config",
    [
        {"a": 2**70},
        {"a": {1: "x", "1": "y"}},
        {"a": {(1, 2): "x"}},
        {"a": {1.5: "x"}},
        {"a": b"x"},
        {"a": {1, 2}},
        {"a": Path("x")},
        {"a": "x" * 10**6},
        {"a": "x\0y"},
        {"a": [0] * 10**6},
        {"a": [[0] * 1000] * 1000},
        {"${a}": 1},
        {"a": "b ${oc.env:HOME} c"},
        {"a": ["${oc.select:seed}"]},
        {"a": "${seed}"},
        {"a": "${"},
        [],
        None,
    ],
)
def test_a_config_holds_plain_values_of_a_bounded_size(config):
    with pytest.raises(UserError, match="the file"):
        plain_config(config, place="the file")


def test_a_file_of_any_size_is_not_read_into_memory(stage):
    with (stage.here / "card.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # takes no space on the disk
    for path, content in (("deep.json", "[" * 100_000), ("long.json", "9" * 10_000), ("bytes.json", "\x80")):
        (stage.here / path).write_bytes(content.encode("latin1"))
    for path in ("card.json", "deep.json", "long.json", "bytes.json", "home", "none.json", "/dev/zero"):
        with pytest.raises(UserError, match=r"Remedy|is no file|has 67 MB|can't be read"):
            read_json(Path(path), remedy="Remedy.")


@pytest.mark.parametrize("threads", [10**9, 0, -1, "8", None, True, 1.5])
def test_a_card_does_not_start_any_number_of_threads(threads, stage, scored):
    changed_card(scored, "hardware.threads", threads)
    stage.refused(verify.main, "ckpt=run", words=("hardware.threads", "expected 1 to"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("training", []), ("training.config", 3), ("evaluation", ["x"])],
)
def test_a_card_of_another_shape_is_one_message(key, value, stage, scored):
    card = changed_card(scored, key, value)
    with pytest.raises(UserError, match=r"card\.json"):
        read_card(card)
