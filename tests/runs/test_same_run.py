"""What makes two configs those of one run."""

from copy import deepcopy

import pytest

from sct.config.check import to_dict
from sct.config.command import compose_config
from sct.runs.identity import changed_keys, changed_like, default_settings, differing


def test_differences_of_configs():
    old = {"a": {"b": 1, "c": 2}, "d": 3}
    new = {"a": {"b": 1, "c": 5}, "e": [1]}
    assert changed_keys(old, new) == {"a.c", "d", "e"}
    saved = {"a": {"b": 7, "c": 2, "x": 0}, "d": 3, "y": 1}
    assert changed_like(saved, old=old, new=new) == {"a": {"b": 7, "c": 5, "x": 0}, "e": [1], "y": 1}


@pytest.fixture
def config(smoke):
    return to_dict(compose_config("train", overrides=smoke))


# settings of classes, one of them within another, and one of a section
NEWER = [
    ("encoder", "reducer", "neighbours"),
    ("inferer", "overlap"),
    ("loss", "worth_weight"),
    ("trainer", "ema_warmup"),
    ("encoder", "drop_path"),
]


def at(node, path):
    for name in path:
        node = node[name]
    return node


@pytest.mark.parametrize("path", NEWER, ids=".".join)
def test_what_an_earlier_version_did_not_have_counts_with_its_default(config, path):
    *folder, name = path
    saved = deepcopy(config)
    section = at(saved, folder)
    del section[name]
    target = at(config, folder).get("_target_")
    default = default_settings(target)[name] if target else False
    at(config, folder)[name] = default
    assert differing(saved, config) == []
    at(config, folder)[name] = 0.123
    assert differing(saved, config) == [".".join(path)]


def test_a_class_that_is_another_one_has_no_defaults_of_the_first(config):
    saved = deepcopy(config)
    saved["encoder"]["reducer"]["_target_"] = "sct.models.reducers.evit.EViT"
    del saved["encoder"]["reducer"]["neighbours"]
    assert differing(saved, config) == ["encoder.reducer._target_", "encoder.reducer.neighbours"]


def test_what_is_no_setting_of_a_class_differs(config):
    saved = deepcopy(config)
    config["data"]["augment"]["own"] = {"_target_": "monai.transforms.RandFlipd", "keys": ["image"]}
    assert differing(saved, config) == ["data.augment.own"]
    # of a library's class too
    saved = deepcopy(config)
    config["data"]["augment"]["own"]["prob"] = 0.1
    assert differing(saved, config) == []
    config["data"]["augment"]["own"]["prob"] = 0.2
    assert differing(saved, config) == ["data.augment.own.prob"]


def test_defaults_are_those_of_the_class_and_of_what_it_hands_on():
    found = default_settings("sct.models.reducers.stp.STP")
    assert found["blocks"] == [3, 6, 9]
    assert found["neighbours"] == 0
    assert "spec" not in found
