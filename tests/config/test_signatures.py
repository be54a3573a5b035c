"""Settings read from the source of this project are those that Python finds once it is imported."""

import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hydra.utils import get_object

from sct.config import source
from sct.config.folders import CONFIG_DIR
from sct.config.hints import WORDS
from sct.config.signatures import from_source, object_signature

FILES = [*CONFIG_DIR.rglob("*.yaml")]
TARGETS = sorted({name for file in FILES for name in re.findall(r"_target_: *(sct[\w.]+)", file.read_text())})


def meaning(hint: Any) -> Any:
    """A hint as `sct.config.hints` sees it: all types that it does not know accept anything."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        choices = frozenset(meaning(choice) for choice in arguments)
        return "anything" if "anything" in choices else choices
    if origin is Literal:
        return arguments
    if origin in (list, Sequence):
        return "list", meaning(arguments[0])
    if origin in (dict, Mapping):
        return "mapping"
    return origin if origin in WORDS else "anything"


@pytest.mark.parametrize("target", TARGETS)
def test_the_source_says_what_python_finds(target):
    read, found = from_source(target), object_signature(get_object(target))
    assert read is not None
    names = [*read.names, *read.handed_over]
    assert sorted(names) == sorted(found.names)
    assert {name: meaning(read.hints.get(name, Any)) for name in names} == {
        name: meaning(found.hints.get(name, Any)) for name in found.names
    }


def test_every_kind_of_target_is_among_them():
    assert {"sct.inference.FastSlidingWindow", "sct.training.optim.adamw", "sct.data.sets.btcv.BTCV"} <= set(TARGETS)


@pytest.mark.parametrize(
    "target",
    ["sct.losses.dice_ce.DiceCEE", "sct.nowhere.Thing", "sct.runtime.files.os.system", "monai.networks.nets.UNet"],
)
def test_what_the_source_does_not_define_is_left_to_the_import(target):
    assert from_source(target) is None


SOURCE = """
import dataclasses
from elsewhere import Other
from sct.errors import UserError as Mistake
from sct.inference.base import Inferer

Way = Mistake | None


@dataclasses.dataclass(kw_only=True)
class Own(Inferer):
    '''What it does.

    level: how far
    '''
    way: Way = None
    level: int | None = None
    hidden: int = dataclasses.field(default=0, init=False)


class Heir(Own):
    pass


@dataclasses.dataclass
class Stranger(Other):
    level: int


@register
class Registered(Own):
    pass


@register
def made(level: int) -> Own: ...
"""


def test_classes_that_no_config_names_yet(tmp_path, monkeypatch):
    package = tmp_path / "sct"
    package.mkdir()
    (package / "own.py").write_text(SOURCE)
    for part in ("inference", "errors.py"):
        (package / part).symlink_to(source.PACKAGE / part)
    monkeypatch.setattr(source, "PACKAGE", package)
    source.parse.cache_clear()
    for name in ("Own", "Heir"):
        found = from_source(f"sct.own.{name}")
        assert found is not None
        assert found.names == ["overlap", "blending", "mirror_axes", "batch_size", "level"]
        # what the docstring does not explain is no setting
        assert found.handed_over == ("way",)
        assert (found.hints["way"], found.hints["level"]) == (Any | None, int | None)
    # another project's base or a decorator may take anything
    for name in ("Stranger", "Registered", "made"):
        assert from_source(f"sct.own.{name}") is None
    source.parse.cache_clear()
