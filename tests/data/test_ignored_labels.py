"""A label to ignore: no class, in no crop's centre, in no count; accepted by the check, and the highest value."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from little_data import scale
from nnunet_layout import write_msd

from sct.data.cases import LabelMap
from sct.data.loading.transforms import Foreground
from sct.data.sets.msd import MSD
from sct.data.survey import survey_case
from sct.errors import UserError
from sct.models.grid import foreground_patches


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., MSD]:
    """A Decathlon set whose last label, 3, is called `ignore`; keywords override fields."""
    root = write_msd(tmp_path / "set", ignored=True)

    def build(**fields: object) -> MSD:
        settings = {"root": str(root), "cache_dir": str(tmp_path / "cache"), "roi_size": [8, 8, 8]}
        return MSD(**(settings | {"intensity": scale(), "positive_share": 1.0} | fields))

    return build


def relabel(data: MSD, names: list[str]) -> None:
    path = Path(data.root) / "dataset.json"
    labels = {str(value): name for value, name in enumerate(names)}
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": labels}))


def test_it_is_no_class(make: Callable) -> None:
    data = make()
    assert data.label_map == LabelMap(("background", "outer", "inner"))
    assert (data.label_map.ignored, data.num_classes, data.outputs.num_channels) == (3, 3, 3)
    data.prepare()
    assert data.load_case(data.cases("val")[0]).label.unique().tolist() == [0, 1, 2, 3]
    assert data.found() == {"labels": ["background", "outer", "inner", "ignore"], "channels": ["MRI"]}
    facts = survey_case(data.cases("val")[0], split="val", data=data, patch_size=(8, 8, 8))
    assert set(facts.volumes) == {"outer", "inner"}
    label = data.load_case(data.cases("val")[0]).label
    patches = foreground_patches((label % 3).unsqueeze(0), patch_size=(8, 8, 8))
    assert facts.patches == pytest.approx(patches.float().mean().item()), "a patch that is ignored holds no foreground"


def test_no_crop_is_centred_on_it(make: Callable) -> None:
    data = make(roi_size=[1, 1, 1], batch_size=1, crops_per_volume=20)
    seen = [batch["label"].unique().tolist() for batch in data.train_loader(seed=0, start_step=0, num_steps=8)]
    assert {value for values in seen for value in values} == {1, 2}
    label = np.array([[0, 3, 1], [2, 3, 0]])
    found = Foreground.of(label, ignored=3)
    assert (found.voxels.tolist(), found.sizes.tolist()) == ([2, 3], [0, 1, 1])


def test_values_beyond_it_are_unknown(make: Callable) -> None:
    data = make()
    relabel(data, ["background", "outer", "ignore"])
    with pytest.raises(
        UserError, match=r"unknown label value\(s\) \[3\]; known are 0 background, 1 outer, 2 \(ignored\)"
    ):
        make().prepare()


def test_it_must_be_the_highest(make: Callable) -> None:
    relabel(make(), ["background", "ignore", "outer", "inner"])
    with pytest.raises(UserError, match=r"label ignore.*has the value 1 .*highest.*data\.ignore=null"):
        make().prepare()
    assert make(ignore=None).num_classes == 4


def test_another_name(make: Callable) -> None:
    relabel(make(), ["background", "outer", "inner", "unsure"])
    assert (make().num_classes, make().label_map.ignored) == (4, None)
    assert make(ignore="unsure").label_map.ignored == 3
    with pytest.raises(UserError, match=r"data\.ignore=unsre.*no such label.*unsure"):
        make(ignore="unsre").prepare()


def test_a_run_takes_data_with_and_without_it(make: Callable) -> None:
    """The classes are the same; whether a value is to be ignored is a matter of the files."""
    classes = ["background", "outer", "inner"]
    without = make(labels=classes, channels=["MRI"])
    without.prepare()
    assert without.label_map.ignored == 3, "the files' dataset.json says so"
    with_it = make(labels=[*classes, "ignore"], channels=["MRI"])
    relabel(with_it, classes)
    with pytest.raises(UserError, match=r"unknown label value\(s\) \[3\]"):
        with_it.prepare()
    assert with_it.outputs == without.outputs
