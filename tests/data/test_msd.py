"""Decathlon folders in their variants, and BTCV in MONAI's layout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from little_data import save, scale

from sct.config.check import build
from sct.config.command import compose_config
from sct.data.sets.msd import MSD
from sct.errors import UserError

BASE = {"modality": {"0": "FLAIR", "1": "T1"}, "labels": {"0": "Background", "1": "edema", "2": "tumour"}}


@pytest.fixture
def make_msd(tmp_path: Path) -> Callable[..., MSD]:
    """Writes a set of four two-channel cases with this dataset.json and builds the reader."""

    def make(description: dict, **fields: object) -> MSD:
        root = tmp_path / "Task99"
        entries = [{"image": f"./imagesTr/c_{i}.nii.gz", "label": f"./labelsTr/c_{i}.nii.gz"} for i in range(4)]
        for entry in entries:
            save(root / entry["image"], np.ones((9, 8, 7, 2), dtype=np.float32), affine=np.eye(4))
            save(root / entry["label"], np.ones((9, 8, 7), dtype=np.uint8), affine=np.eye(4))
        twin = {"image": "./imagesTr/._c_0.nii.gz", "label": "./labelsTr/._c_0.nii.gz"}
        root.mkdir(exist_ok=True)
        (root / "dataset.json").write_text(json.dumps({"training": [twin, *entries], **description}))
        cache_dir = str(tmp_path / "cache")
        settings = {"root": str(root), "cache_dir": cache_dir, "roi_size": [8, 8, 8], "intensity": scale()}
        return MSD(**(settings | {"test_share": 0.25, "val_share": 0.25} | fields))

    return make


@pytest.mark.parametrize(
    "description",
    [
        BASE,
        BASE | {"labels": {"background": 0, "edema": 1, "tumour": 2}},
        BASE | {"labels": {"background": "0", "edema": "1", "tumour": "2"}},
        {"channel_names": BASE["modality"], "labels": {"tumour": 2, "background": 0, "edema": 1}},
    ],
)
def test_variants_of_dataset_json(make_msd: Callable, description: dict) -> None:
    data = make_msd(description)
    assert data.label_map.names == ("background", "edema", "tumour")
    assert (data.num_classes, data.num_channels) == (3, 2)
    data.prepare()
    assert sum(len(data.cases(part)) for part in ("train", "val", "test")) == 4
    assert data.load_case(data.cases("val")[0]).image.shape == (2, 9, 8, 8)


def test_classes_and_channels_of_the_config_need_no_data(tmp_path: Path) -> None:
    data = MSD(
        root=str(tmp_path / "absent"),
        cache_dir=str(tmp_path),
        roi_size=[8, 8, 8],
        intensity=scale(),
        labels=["background", "a"],
        channels=["MRI"],
    )
    assert (data.num_classes, data.num_channels) == (2, 1)
    with pytest.raises(UserError, match=r"(?s)absent.*does not exist.*medicaldecathlon"):
        data.prepare()


def test_label_map_of_the_config_must_agree(make_msd: Callable) -> None:
    with pytest.raises(UserError, match=r"(?s)oedema.*dataset\.json has.*, edema"):
        make_msd(BASE, labels=["background", "oedema", "tumour"]).prepare()


def test_channels_of_the_config_must_agree(make_msd: Callable) -> None:
    with pytest.raises(UserError, match=r"(?s)MRI.*dataset\.json has.*FLAIR, T1"):
        make_msd(BASE, channels=["MRI"]).prepare()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": {"0": "background", "2": "edema"}}, "expected the values 0, 1, 2"),
        ({"labels": {"0": "air", "1": "edema"}}, "background"),
        ({"labels": ["background", "edema"]}, "expected the values"),
        ({"modality": {}}, "channel_names"),
        ({"training": [{"image": "a"}]}, "training"),
        ({"training": []}, "empty"),
    ],
)
def test_bad_dataset_json_is_named(make_msd: Callable, change: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        make_msd(BASE | change).prepare()


def test_btcv_in_monais_layout(make_btcv: Callable, btcv_root: Path) -> None:
    def entry(number: int) -> dict:
        folder = "RawData/Training"
        return {
            "image": f"{folder}/img/img{number:04d}.nii.gz",
            "label": f"{folder}/label/label{number:04d}.nii.gz",
        }

    content = {
        "training": [entry(1), entry(21)],
        "validation": [entry(2)],
        "test": ["imagesTs/img0061.nii.gz"],
    }
    (btcv_root / "dataset_0.json").write_text(json.dumps(content))
    data = make_btcv()
    assert [case.id for case in data.find_cases()] == ["0001", "0002", "0021"]
    assert data.num_classes == 14
    (btcv_root / "dataset_0.json").write_text(json.dumps({"training": [{"image": "x"}]}))
    with pytest.raises(UserError, match=r"dataset_0\.json"):
        make_btcv().prepare()


def test_hippocampus(real_data: Callable, tmp_path: Path) -> None:
    root = real_data("Task04_Hippocampus")
    data = MSD(root=str(root), cache_dir=str(tmp_path), roi_size=[40, 56, 40], intensity=scale(), val_share=0.06)
    data.prepare()
    assert data.label_map.names == ("background", "Anterior", "Posterior")
    assert [len(data.cases(part)) for part in ("train", "val", "test")] == [154, 12, 42]


def test_brain_tumour_has_four_channels(real_data: Callable, tmp_path: Path) -> None:
    root = real_data("Task01_BrainTumour_2mm")
    data = MSD(root=str(root), cache_dir=str(tmp_path), roi_size=[64, 64, 64], intensity=scale(), check=False)
    assert data.num_channels == 4
    volume = data.load_case(data.cases("val")[0])
    assert volume.image.shape[0] == 4
    assert set(volume.label.unique().tolist()) <= {0, 1, 2, 3}


def test_real_ct(real_data: Callable, make_btcv: Callable) -> None:
    data = make_btcv(root=str(real_data("ct_btcv_layout")), split="same", spacing=[3.0, 3.0, 4.0])
    volume = data.load_case(data.cases("train")[0])
    assert volume.label.unique().tolist() == list(range(14))
    assert volume.source_shape == (119, 119, 185)


def test_regions_of_any_folder(make_msd: Callable) -> None:
    data = make_msd(BASE, regions={"all": [1, "tumour"], "inner": ["tumour"]})
    assert (data.num_classes, data.outputs.num_channels) == (3, 2)
    assert data.outputs.scored == {"all": (1, 2), "inner": (2,)}
    assert data.outputs.legend == ("background", "edema (all)", "tumour (all, inner)")
    data.prepare()
    assert data.load_case(data.cases("val")[0]).label.unique().tolist() == [0, 1], "labels stay as they are"
    assert make_msd(BASE).outputs.num_channels == 3
    with pytest.raises(UserError, match=r"data\.regions\.all names \['oedema'\]"):
        _ = make_msd(BASE, regions={"all": ["oedema"]}).outputs


def test_groups_are_of_what_is_scored(make_msd: Callable) -> None:
    with pytest.raises(UserError, match=r"data\.class_groups\.both names \['oedema'\].*edema, tumour"):
        make_msd(BASE, class_groups={"both": ["oedema", "tumour"]}).prepare()
    with pytest.raises(UserError, match=r"names \['tumour'\].*scored are all"):
        make_msd(BASE, regions={"all": [1, 2]}, class_groups={"both": ["tumour"]}).prepare()


def test_the_tolerance_is_a_number_or_one_by_name(make_msd: Callable) -> None:
    assert make_msd(BASE).tolerances() == {"edema": 1.0, "tumour": 1.0}
    assert make_msd(BASE, tolerance={"tumour": 2}).tolerances() == {"tumour": 2.0}
    assert make_msd(BASE, regions={"all": [1, 2]}, tolerance=3).tolerances() == {"all": 3.0}
    with pytest.raises(UserError, match=r"data\.tolerance names \['oedema'\], but scored are edema, tumour"):
        make_msd(BASE, tolerance={"oedema": 2.0}).prepare()
    for wrong in (-1, float("nan"), float("inf"), "2 mm", True, {"edema": None}):
        with pytest.raises(UserError, match="must be a number of mm from 0 on"):
            make_msd(BASE, tolerance=wrong).prepare()


@pytest.mark.parametrize(("name", "enhancing"), [("brats", 3), ("brats_paper_regions", 2)])
def test_both_readings_of_brats(name: str, enhancing: int, real_data: Callable, tmp_path: Path) -> None:
    root = real_data("Task01_BrainTumour_2mm")
    overrides = [f"data={name}", f"data.root={root}", f"data.cache_dir={tmp_path}", "data.check=false"]
    data = build(compose_config("train", overrides=overrides).data, key="data")
    assert data.outputs.scored == {"WT": (1, 2, 3), "TC": (2, 3), "ET": (enhancing,)}
    assert len(data.find_cases()) == 16
