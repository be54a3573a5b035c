"""`sct.data plan` on little sets of every kind: the files are composed, checked, and trained as they are.

Real sets (with -m long) are planned and trained for two steps.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from commands import assert_one_message, files_of, run_command
from little_sets import SETS, label_map, mri, save, thick

from sct import train
from sct.config.check import check_config
from sct.config.command import compose_config
from sct.config.folders import CONFIG_DIR
from sct.data import __main__ as data
from sct.runs.folder import FINISHED

REAL_DATA = Path(os.environ.get("SCT_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
MACHINE = ("device=cpu", "memory=8", "cores=2")
# what makes a planned network tiny; windows, intensities, crops and all else are as planned
SHRUNK = (
    *("encoder.dim=24", "encoder.num_heads=2", "encoder.depth=4", "trainer.max_steps=2", "schedule.warmup_steps=0"),
    *("trainer.validate_every=2", "trainer.save_every=2", "trainer.tensorboard=false", "trainer.precision=fp32"),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def plan_main() -> None:
    sys.argv.insert(1, "plan")
    data.main()


def plan(*arguments: str, name: str = "mine"):
    outcome = run_command(plan_main, *arguments, f"name={name}", *MACHINE)
    assert outcome.status == 0, outcome
    return compose_config("train", overrides=[f"+experiment={name}"])


def trained(cfg, folder: Path) -> None:
    outcome = run_command(train.main, f"+experiment={cfg.name}", *SHRUNK, f"run_dir={folder}")
    assert outcome.status == 0, outcome
    assert (folder / FINISHED).read_text() == "2\n"


@pytest.mark.parametrize("kind", SETS)
def test_what_is_planned_trains_without_a_change(kind, tmp_path):
    cfg = plan(*SETS[kind](tmp_path / "set"))
    check_config(cfg)
    trained(cfg, tmp_path / "run")


def test_a_plan_of_an_mri_by_hand(tmp_path, home):
    cfg = plan(*mri(tmp_path / "set"))
    assert list(cfg.data.spacing) == [1.0, 1.0, 2.0]
    # 20 x 18 x 12 voxels are few tokens of 8 x 8 x 4: patches of 4, half as many along the axis of 2 mm
    assert (list(cfg.data.roi_size), list(cfg.encoder.patch_size)) == ([20, 20, 12], [4, 4, 2])
    assert list(cfg.data.labels) == ["background", "left_organ", "lesion"]
    assert list(cfg.data.channels) == ["MRI"]
    assert "flip_x" not in cfg.data.augment  # left_organ
    assert list(cfg.inferer.mirror_axes) == []
    assert [step._target_.rpartition(".")[2] for step in cfg.data.intensity.transforms] == [
        "ScaleIntensityRangePercentilesd",
        "Standardise",
    ]
    assert (cfg.data.zero_background, cfg.data.crop_above, cfg.data.split) == (False, None, None)
    assert (cfg.name, cfg.data.root, cfg.data.cache_dir) == ("mine", str(tmp_path / "set"), "outputs/cache")
    assert sorted(files_of(home)) == [
        "configs/data/mine.yaml",
        "configs/experiment/mine.yaml",
        "outputs/cache/checked.json",
    ]


def test_thick_slices_get_a_patch_for_each_axis(tmp_path, home):
    cfg = plan(*thick(tmp_path / "set"))
    # 60 mm of slices: 25 of 2.4 mm, in multiples of 4
    assert (list(cfg.data.spacing), list(cfg.data.roi_size)) == ([0.8, 0.8, 2.4], [40, 40, 28])
    assert list(cfg.encoder.patch_size) == [8, 8, 4]
    written = (home / "configs/experiment/mine.yaml").read_text()
    assert "patch_size: [8, 8, 4]" in written
    assert "nearer to a cube: 6.4 x 6.4 x 9.6 mm" in " ".join(written.replace("#", "").split())
    trained(cfg, tmp_path / "run")


def test_overlapping_regions_and_a_background_of_zeros(tmp_path):
    cfg = plan(*SETS["regions"](tmp_path / "set"))
    assert cfg.loss.pixel._target_ == "sct.losses.dice_bce.DiceBCE"
    assert dict(cfg.data.regions) == {"both": [1, 2], "lesion": [2]}
    assert cfg.data.zero_background
    assert cfg.data.intensity == {"_target_": "sct.data.loading.scaling.Standardise", "nonzero": True}


def test_one_ct(tmp_path):
    told = run_command(plan_main, *SETS["one_ct"](tmp_path / "set"), *MACHINE).out
    assert "1 case(s) are too few" in told
    cfg = compose_config("train", overrides=["+experiment=mine"])
    # labels are of 60 to 79 and 100 to 119 HU
    assert cfg.data.intensity.a_min == pytest.approx(60, abs=0.5)
    assert cfg.data.intensity.a_max == pytest.approx(119, abs=0.5)
    assert cfg.data.split == "same"


def test_pictures(tmp_path):
    cfg = plan(*SETS["pictures"](tmp_path / "set"))
    # the multiples of 8 next to 90 x 120
    assert list(cfg.data.resize_to) == list(cfg.data.roi_size) == [88, 120]
    assert (cfg.data.spacing, cfg.data.intensity.a_max, cfg.data.split) == (None, 255.0, None)
    assert {"flip_rows", "flip_columns", "affine"} <= set(cfg.data.augment)
    assert list(cfg.inferer.mirror_axes) == [0, 1]


def test_what_nnunet_says_of_its_channels_and_regions_is_kept(tmp_path):
    cfg = plan(*SETS["nnunet"](tmp_path / "set"))
    assert cfg.data.intensity is None
    assert cfg.loss.pixel._target_ == "sct.losses.dice_bce.DiceBCE"
    assert (list(cfg.data.channels), dict(cfg.data.regions)) == (["CT", "PET"], {"both": [1, 2], "lesion": [2]})


def test_what_the_command_says_is_kept_and_the_rest_follows_it(tmp_path):
    cfg = plan(
        *mri(tmp_path / "set"), "data.spacing=[2,2,2]", "data.val_share=0.3", "data.augment={}", "data.batch_size=1"
    )
    assert (list(cfg.data.spacing), cfg.data.val_share, cfg.data.batch_size) == ([2, 2, 2], 0.3, 1)
    # 20 x 18 x 12 voxels of 1 x 1 x 2 mm are 10 x 9 x 12 of 2 mm
    assert list(cfg.data.roi_size) == [12, 12, 12]
    text = Path("configs/data/mine.yaml").read_text()
    assert "spacing: [2, 2, 2]  # as the command says" in text


def test_the_same_facts_give_the_same_files(tmp_path, home):
    settings = mri(tmp_path / "set")
    plan(*settings)
    first = files_of(home / "configs")
    plan(*settings, "overwrite=true")
    assert files_of(home / "configs") == first


def test_every_planned_line_has_its_reason(tmp_path):
    plan(*mri(tmp_path / "set"))
    lines = Path("configs/experiment/mine.yaml").read_text().splitlines()
    bare = [line for i, line in enumerate(lines) if ": " in line and "#" not in line and "#" not in lines[i - 1]]
    assert bare == ["  - override /data: mine", "name: mine"]
    text = Path("configs/data/mine.yaml").read_text()
    planned, _, rest = text.partition("# All that follows is as in data=msd")
    keys = [line for line in planned.splitlines() if line[:1].isalpha() and not line.startswith(("_target_", "root"))]
    assert len(keys) == 13
    above = {line: before for before, line in zip(planned.splitlines(), planned.splitlines()[1:], strict=False)}
    assert [key for key in keys if "  # " not in key and not above[key].startswith("#")] == []
    assert "patient_pattern: null" in rest
    assert set(yaml.safe_load(text)) >= {"_target_", "root", "roi_size", "val_share"}


def test_files_of_others_are_never_written_over(tmp_path, home):
    settings = [*mri(tmp_path / "set"), *MACHINE]
    assert run_command(plan_main, *settings).status == 0
    before = files_of(home / "configs")
    assert_one_message(run_command(plan_main, *settings), "configs/data/mine.yaml exists", "overwrite=true")
    assert_one_message(run_command(plan_main, *settings, "name=brats"), "shipped", "name=my_plan")
    Path("configs/data/own.yaml").write_text("defaults: [msd]\n")
    assert_one_message(
        run_command(plan_main, *settings, "name=own", "overwrite=true"), "no plan wrote it", "name=my_plan"
    )
    assert_one_message(run_command(plan_main, *settings, "name=a/b"), "name=a/b can't be")
    assert_one_message(run_command(plan_main, *settings, "name=yes"), "can't be")
    assert {name: files_of(home / "configs")[name] for name in before} == before


def test_in_a_checkout_shipped_files_are_safe(tmp_path, monkeypatch):
    """There configs/ is the shipped folder, and files of the user stand among the shipped ones."""
    monkeypatch.chdir(CONFIG_DIR.parent)
    before = files_of(CONFIG_DIR)
    outcome = run_command(plan_main, *mri(tmp_path / "set"), "name=brats", "overwrite=true", f"paths.cache={tmp_path}")
    assert_one_message(outcome, "no plan wrote it")
    assert files_of(CONFIG_DIR) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["device=gpu"], ["device=gpu must be auto, cpu or cuda"]),
        (["memory=0"], ["memory=0", "at least 1"]),
        (["data.split=nowhere.json"], ["data.split=nowhere.json"]),
        (["data.patient_pattern=nobody"], ["data.patient_pattern=nobody has no group"]),
        (["data.spacing=[1,1]"], ["data.spacing=[1, 1]"]),
        (["overwrit=true"], ["Did you mean 'overwrite'?"]),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(settings, words, tmp_path, home):
    assert_one_message(run_command(plan_main, *mri(tmp_path / "set"), *MACHINE, *settings), *words)
    assert not (home / "configs").exists()


def test_a_bad_file_stops_the_plan(tmp_path, home):
    settings = mri(tmp_path / "set")
    save(tmp_path / "set/labelsTr/c3.nii.gz", label_map(values=(1, 9)))
    assert_one_message(run_command(plan_main, *settings, *MACHINE), "c3.nii.gz", "unknown label value(s) [9]")
    assert not (home / "configs").exists()


def test_faults_of_the_set_are_warned_of(tmp_path):
    settings = mri(tmp_path / "set")
    description = json.loads((tmp_path / "set/dataset.json").read_text())
    description["labels"]["3"] = "nowhere"
    (tmp_path / "set/dataset.json").write_text(json.dumps(description))
    assert "No training case has nowhere" in run_command(plan_main, *settings, *MACHINE).out


REAL = {
    "Task04_Hippocampus": [],
    "Task01_BrainTumour_2mm": ["data.regions={WT:[1,2,3],TC:[2,3],ET:[3]}"],
    "ct_btcv_layout": ["data=btcv"],
    "ph2_isic_layout": ["data=isic"],
}


@pytest.mark.long
@pytest.mark.parametrize("name", REAL)
def test_real_sets_are_planned_and_train(name, tmp_path):
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"real data {name} is not in {REAL_DATA} (set SCT_REAL_DATA)")
    trained(plan(*REAL[name], f"data.root={REAL_DATA / name}"), tmp_path / "run")
