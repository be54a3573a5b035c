"""Which packages the targets of a config may be of, and what a run folder may add to a command line."""

import json
import logging
from collections.abc import Sequence

import pytest
from omegaconf import OmegaConf
from torch import nn

from sct.config.check import build, check_node, read_object
from sct.config.hints import fits, in_words
from sct.config.requests import EvalConfig
from sct.config.saved import resumed_arguments, saved_overrides
from sct.config.signatures import object_signature
from sct.config.trust import SHIPPED, Trust
from sct.errors import UserError

OWN, SAVED = Trust(), Trust(("mypkg",)).saved("runs/mine")


@pytest.mark.parametrize("package", SHIPPED)
def test_shipped_packages_are_always_allowed(package):
    assert OWN.allows(package)
    assert SAVED.allows(package)


@pytest.mark.parametrize("package", ["os", "posix", "builtins", "subprocess", "_io", ""])
def test_what_belongs_to_python_is_never_a_part(package):
    assert not OWN.allows(package)
    assert not Trust((package,)).saved("runs/mine").allows(package)
    assert "belongs to Python" in OWN.refusal(f"{package}.run", package=package, key="loss")


def test_other_packages_are_allowed_in_the_own_config_and_where_they_are_named():
    assert OWN.allows("mypkg")
    assert SAVED.allows("mypkg")
    assert not SAVED.allows("other")
    assert not OWN.saved("runs/mine").allows("mypkg")
    message = SAVED.refusal("other.Loss", package="other", key="loss.pixel")
    assert message.startswith("loss.pixel._target_=other.Loss is not allowed: runs/mine uses it")
    assert "Add plugins=[mypkg,other] to the command" in message


def test_without_a_word_nothing_but_the_shipped_packages_is_built():
    with pytest.raises(UserError, match="of the package numpy"):
        build(OmegaConf.create({"_target_": "numpy.ones", "shape": 3}), key="loss")


def test_a_named_package_does_not_open_what_it_has_imported():
    node = OmegaConf.create({"_target_": "omegaconf.omegaconf.yaml.safe_load", "stream": "a"})
    assert build(node, key="loss", trust=Trust(("omegaconf", "yaml")).saved("run")) == "a"
    with pytest.raises(UserError, match=r"of the package yaml.*plugins=\[omegaconf,yaml\]"):
        build(node, key="loss", trust=Trust(("omegaconf",)).saved("run"))


@pytest.mark.parametrize("name", ["os", "torch", "sct", "mypkg.losses", "my-pkg", ""])
def test_plugins_are_packages_of_the_user(name):
    with pytest.raises(UserError, match="no package of your own"):
        EvalConfig(plugins=["mypkg", name])


REFUSED = [
    "plugins=[mypkg]",
    "+plugins=[mypkg]",
    "++plugins=[mypkg]",
    " plugins=[mypkg]",
    "--config-dir=/tmp/evil",
    "-cd=/tmp/evil",
    "hydra.searchpath=[/tmp/evil]",
    "+hydra.job_logging.handlers.x={}",
    "hydra/launcher=slurm",
    "+experiment@hydra=x",
    "+experiment=../../evil",
    "encoder=/tmp/evil",
]
KEPT = ["+experiment=sub/mine", "data.root=../data", "seed=3", "init=../run", "~data.augment.flip", "+data.names.a-b=x"]


def test_a_run_folder_adds_settings_to_a_command_and_nothing_else(tmp_path, caplog):
    (tmp_path / "overrides.json").write_text(json.dumps([*REFUSED, *KEPT]))
    with caplog.at_level(logging.WARNING):
        assert saved_overrides(tmp_path) == KEPT
    assert all(override in caplog.text for override in REFUSED)
    assert resumed_arguments([f"resume={tmp_path}"]) == [*KEPT, f"resume={tmp_path}"]
    assert resumed_arguments([f"resume={tmp_path}", "plugins=[a]"])[-1] == "plugins=[a]"


class Base:
    def __init__(self, *, root: str, size: int = 3) -> None: ...


class HandsOn(Base):
    def __init__(self, *, names: list, size: float = 0.5, **settings) -> None: ...


class OfTorch(nn.Conv2d):
    def __init__(self, *, scale: float, **settings) -> None: ...


class Unresolved:
    def __init__(self, *, dim: "int", other: "Missing") -> None: ...  # noqa: F821


class Plain(nn.Module):
    pass


def test_settings_of_own_classes_are_read_with_those_that_they_hand_on():
    signature = object_signature(HandsOn)
    assert signature.names == ["names", "size", "root"]
    assert signature.hints == {"names": list, "size": float, "root": str}
    # the libraries' own hints are not reliable
    signature = object_signature(OfTorch)
    assert signature.names[:3] == ["scale", "in_channels", "out_channels"]
    assert signature.hints == {"scale": float}
    assert object_signature(Plain).names == []
    assert object_signature(Unresolved).hints == {}


def test_names_and_types_of_own_classes_are_checked():
    for setting, words in (
        ({"rot": "a"}, "HandsOn has no such setting. Did you mean 'root'"),
        ({"root": 3}, "loss.root=3 must be text"),
        ({"names": "a"}, "loss.names=a must be a list"),
    ):
        node = OmegaConf.create({"_target_": f"{__name__}.HandsOn", **setting})
        with pytest.raises(UserError) as caught:
            check_node(node, key="loss", read=read_object, trust=OWN)
        assert words in str(caught.value)


@pytest.mark.parametrize("hint", [list, Sequence])
def test_a_list_of_anything_fits_a_bare_hint(hint):
    assert fits(OmegaConf.create([1, "a"]), hint)
    assert not fits(3, hint)
    assert in_words(hint) == "a list"
