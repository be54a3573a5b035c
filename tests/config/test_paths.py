"""Values of path-like keys are text, whatever is in them; a dict replaces a node where merging can't be meant."""

import json
from pathlib import Path

import pytest
from commands import assert_one_message, run_command
from hydra.core.override_parser.overrides_parser import OverridesParser

from sct import predict, train
from sct.config.command import compose_config
from sct.config.paths import text_overrides, whole_nodes
from sct.config.saved import resumed_arguments
from sct.data.sets.msd import MSD

NAMES = [
    *("müller", "患者", "scan (1)", "a#1", "a=b", "a,b", "[x]", "{x}", "it's", 'say "x"', "a&b", "a;b!", "100%", "a b"),
    *("1e5", "007", "true", "nan", "a\\b", "back\\", "-x", "$x", "a:b", "@home", "^caret", "'half", "tab\tbed"),
]


def value_of(argument: str) -> object:
    """What Hydra makes of an argument."""
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["input", "data.root", "+data.cache_dir", "++data.root", "name"])
def test_a_path_is_a_path(name, key):
    (argument,) = text_overrides([f"{key}=/data/{name}"])
    assert value_of(argument) == f"/data/{name}"
    assert text_overrides([argument]) == [argument], "what is kept of a command line is read the same again"
    (alone,) = text_overrides([f"{key}={name}"])
    assert value_of(alone) == name


def test_what_hydra_reads_rightly_is_left_alone():
    plain = [
        *("data.root=/data/BTCV", "input=${paths.data}/x", "output=null", "ckpt=???", "resume=auto", "runs=[a,b]"),
        *("pretrained=timm:vit_small", "encoder=stp", "data.roi_size=[16,16]", "--help", "-m", "+experiment=demo"),
        *("trainer.max_steps=3", "~data.root", "data.labels=[a,b]"),
    ]
    assert text_overrides(plain) == plain


def test_references_to_other_keys_still_work(monkeypatch):
    monkeypatch.setenv("PLACE", "/data/ü")
    arguments = text_overrides(["data.root=${paths.data}/a (1)", "paths.data=${oc.env:PLACE}", "run_dir=${data.root}"])
    assert compose_config("train", overrides=arguments).run_dir == "/data/ü/a (1)"


def test_quotes_for_hydra_are_still_taken_as_quotes():
    assert [value_of(a) for a in text_overrides(["input='/x/a (1)'", 'input="/x/it\'s"', "output='~/out'"])] == [
        *("/x/a (1)", "/x/it's", str(Path.home() / "out"))
    ]
    assert str(value_of(text_overrides(["output='null'"])[0])) == "null"


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/mü")
    values = [value_of(a) for a in text_overrides(["data.root=~/x", "input=~", "output=~no_such_user/x", "name=~x"])]
    assert values == ["/home/mü/x", "/home/mü", "~no_such_user/x", "~x"]


def test_lists_of_texts():
    assert value_of(text_overrides(["runs=[a/ü, 'b,c', d]"])[0]) == ["a/ü", "b,c", "d"]
    assert value_of(text_overrides(["data.exclude=[1, case=2]"])[0]) == ["1", "case=2"]


def test_in_a_sweep_commas_part_jobs():
    (_, argument) = text_overrides(["-m", "ckpt=runs/ü,'runs/a,b',runs/c"])
    override = OverridesParser.create().parse_override(argument)
    assert list(override.sweep_string_iterator()) == ["'runs/ü'", "'runs/a,b'", "runs/c"]
    assert text_overrides(["-m", "ckpt=glob(*)"]) == ["-m", "ckpt=glob(*)"]


def test_a_run_in_such_a_folder_is_resumed(tmp_path):
    folder = tmp_path / "mü, ller"
    folder.mkdir()
    (folder / "overrides.json").write_text(json.dumps(["+experiment=demo"]))
    assert resumed_arguments([f"resume={folder}"])[0] == "+experiment=demo"


def test_commands_take_such_paths(finished_run, tmp_path):
    path = tmp_path / "a,b (ü)"
    outcome = run_command(predict.main, f"ckpt={finished_run}", f"input={path}", "output=x")
    assert_one_message(outcome, f"input={path} does not exist")


def test_the_message_about_other_keys_has_the_line_to_type():
    outcome = run_command(train.main, "trainer.best_metric=val/dice/größe")
    assert_one_message(outcome, "two pairs of quotes", "\"trainer.best_metric='val/dice/größe'\"")
    assert value_of("trainer.best_metric='val/dice/größe'") == "val/dice/größe"


NODE = "data.intensity={_target_: monai.transforms.ScaleIntensityRanged, keys: [image], a_min: 0, a_max: 1}"


def test_a_dict_with_a_target_replaces_the_node():
    cfg = compose_config("train", overrides=whole_nodes(["data=msd", "data.root=/x", NODE]))
    assert dict(cfg.data.intensity) == {
        "_target_": "monai.transforms.ScaleIntensityRanged",
        "keys": ["image"],
        "a_min": 0,
        "a_max": 1,
    }


def test_an_empty_dict_empties_the_node_and_null_means_none():
    assert compose_config("train", overrides=whole_nodes(["data=msd", "data.augment={}"])).data.augment == {}
    assert compose_config("train", overrides=whole_nodes(["data=msd", "data.augment=null"])).data.augment is None
    assert MSD(root="/x", roi_size=[8, 8, 8], intensity=None, cache_dir="/x", augment=None).augment is None


def test_other_dicts_are_merged_as_ever():
    given = ["data.class_groups={a: [b]}", "encoder={}", "+data.x={}", "data.y={a", "data.z={},{}"]
    assert whole_nodes(given) == given


def test_a_dict_with_unknown_keys_is_told_as_what_it_is():
    outcome = run_command(train.main, "data.intensity={no_such_key: 1}")
    assert_one_message(outcome, "data.intensity={...}", "has one that is not there", "_target_")
