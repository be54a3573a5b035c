"""A folder whose layout is another one than the config says: the error names the one that takes it."""

import json
import os
from pathlib import Path

import pytest

from sct.data.layouts import elsewhere, layout_of, no_data

LAYOUTS = {
    "btcv": lambda root: (root / "RawData/Training/img").mkdir(parents=True),
    "isic": lambda root: (root / "ISIC2018_Task1-2_Training_Input").mkdir(parents=True),
    "synapse": lambda root: (root / "train_npz").mkdir(parents=True),
    "msd": lambda root: describe(root, training=[], labels={}),
    "nnunet": lambda root: describe(root, channel_names={}, labels={}),
}


def describe(root: Path, **content: object) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_known_in_the_folder_and_in_a_folder_of_it(name, tmp_path):
    LAYOUTS[name](tmp_path / "set")
    assert layout_of(tmp_path / "set") == name
    other = next(layout for layout in LAYOUTS if layout != name)
    assert elsewhere(tmp_path / "set", name=other, setting="data.root") == (
        f"It has the layout of data={name}: give that."
    )
    # a layout that is there, but empty, is not told again
    assert elsewhere(tmp_path / "set", name=name, setting="data.root") is None
    told = str(no_data("Any", name=other, root=tmp_path, lacks="nothing", expected="Expected: more."))
    assert told.endswith(f"  A folder in it has the layout of data={name}: give data={name} data.root={tmp_path}/set\n"
                         "  Expected: more.")  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", "7", "{", "[" * 100_000])
def test_a_damaged_description_is_no_layout(text, tmp_path):
    (tmp_path / "dataset.json").write_text(text)
    assert layout_of(tmp_path) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_tells_nothing(tmp_path):
    tmp_path.chmod(0)
    assert elsewhere(tmp_path, name="msd", setting="data.root") is None
    tmp_path.chmod(0o700)


def test_a_folder_that_is_not_there_tells_nothing(tmp_path):
    told = str(no_data("Any", name="msd", root=tmp_path / "no", lacks="nothing", expected="Expected: more."))
    assert told == f"No Any data: looked in {tmp_path}/no (data.root), which does not exist.\n  Expected: more."
