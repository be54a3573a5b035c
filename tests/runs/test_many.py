"""Many images: shared out over processes, none made twice, failures listed; another data set scored as a whole."""

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import assert_one_message, files_of, run_command
from test_owned import SETTINGS, write_set

import sct
from sct import eval as evaluation
from sct import predict, train
from sct.errors import UserError
from sct.runs.prediction import FOLDER


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and the folder of its data."""
    folder = tmp_path_factory.mktemp("many")
    root = write_set(folder / "data")
    places = [f"data.root={root}", f"paths.cache={folder}/cache", f"run_dir={folder}/run"]
    outcome = run_command(train.main, *SETTINGS, *places)
    assert outcome.status == 0, outcome.err
    return folder / "run", root


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Nine volumes."""
    rng, folder = np.random.default_rng(3), tmp_path / "in"
    folder.mkdir()
    for number in range(9):
        nib.save(
            nib.Nifti1Image(rng.normal(100, 10, (16,) * 3).astype(np.float32), np.eye(4)), folder / f"{number}.nii.gz"
        )
    return folder


def written(output: Path) -> dict[str, int]:
    """The label maps of a folder, and when each was made."""
    return {path.name: path.stat().st_mtime_ns for path in output.rglob("*.nii.gz")}


def test_parts_make_together_what_one_process_makes_and_nothing_twice(trained, inputs, tmp_path):
    arguments = [f"ckpt={trained[0]}", f"input={inputs}", f"output={tmp_path}/out"]
    first = run_command(predict.main, *arguments, "shard=0/2")
    assert first.status == 0, first.err
    part = written(tmp_path / "out")
    assert 0 < len(part) < 9
    assert f"part 0/2 by shard=0/2: {len(part)} of 9 cases" in first.out
    # another number of processes goes on from there, and so does none
    assert run_command(predict.main, *arguments, "shard=2/3").status == 0
    rest = run_command(predict.main, *arguments)
    assert rest.status == 0
    whole = written(tmp_path / "out")
    assert sorted(whole) == [f"{number}.nii.gz" for number in range(9)]
    assert {name: whole[name] for name in part} == part
    again = run_command(predict.main, *arguments)
    assert "9 cases: 0 predicted now, 9 were there already, 0 failed" in again.out
    assert written(tmp_path / "out") == whole
    alone = sct.load(trained[0], device="cpu").predict(inputs / "4.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out/4.nii.gz").dataobj), alone.labels)
    left = {path.parent.name for path in (tmp_path / "out" / FOLDER).rglob("*") if path.is_file()}
    assert left == {"records"}


def test_other_settings_and_weights_make_all_again(trained, inputs, tmp_path):
    arguments = [f"input={inputs}", f"output={tmp_path}/out", "shard=0/3"]
    number = len(written_now(arguments, trained[0]))
    assert number
    assert len(written_now(arguments, trained[0])) == 0
    assert len(written_now([*arguments, "inferer.overlap=0.25"], trained[0])) == number
    assert len(written_now([*arguments, "inferer.overlap=0.25"], trained[0])) == 0
    other = Path(shutil.copytree(trained[0], tmp_path / "other"))
    outcome = run_command(train.main, f"resume={other}", "trainer.max_steps=3", "trainer.validate_every=1")
    assert outcome.status == 0, outcome.err
    assert len(written_now([*arguments, "inferer.overlap=0.25", "weights=last"], other)) == number
    # where a run lies is no setting
    moved = Path(shutil.move(other, tmp_path / "moved"))
    assert len(written_now([*arguments, "inferer.overlap=0.25", "weights=last"], moved)) == 0


def written_now(arguments: list[str], run: Path) -> list[str]:
    outcome = run_command(predict.main, f"ckpt={run}", *arguments)
    assert outcome.status == 0, outcome.err
    return [line for line in outcome.out.splitlines() if " -> " in line]


def test_what_fails_leaves_the_others_alone_and_is_tried_again(trained, inputs, tmp_path):
    good = (inputs / "3.nii.gz").read_bytes()
    (inputs / "3.nii.gz").write_bytes(good[:100])
    nib.save(nib.Nifti1Image(np.full((16,) * 3, np.nan, np.float32), np.eye(4)), inputs / "5.nii.gz")
    (tmp_path / "list.txt").write_text("".join(f"in/{n}.nii.gz\n" for n in (*range(9), "gone")))
    arguments = [f"ckpt={trained[0]}", f"input={tmp_path}/list.txt", f"output={tmp_path}/out"]
    outcome = run_command(predict.main, *arguments)
    assert_one_message(outcome, "3 of 10 cases failed", "3: ", "cannot be read", "5: ", "NaN", "gone: ", "not exist")
    before = written(tmp_path / "out")
    assert len(before) == 7
    (inputs / "3.nii.gz").write_bytes(good)
    outcome = run_command(predict.main, *arguments)
    assert_one_message(outcome, "2 of 10 cases failed", "5: ", "gone: ")
    assert set(written(tmp_path / "out")) - set(before) == {"3.nii.gz"}
    assert {name: when for name, when in written(tmp_path / "out").items() if name in before} == before
    with pytest.raises(UserError, match="2 of 10 cases failed"):
        sct.load(trained[0], device="cpu").predict_files(tmp_path / "list.txt", output=tmp_path / "out")


def test_a_fault_of_the_network_on_one_image_is_a_failure_of_that_one(trained, inputs, tmp_path, monkeypatch):
    from sct.inference import cases

    original, calls = cases.predict_volume, iter(range(99))

    def predict_volume(*arguments, **settings):
        if next(calls) == 1:
            raise RuntimeError("out of memory")
        return original(*arguments, **settings)

    monkeypatch.setattr(cases, "predict_volume", predict_volume)
    outcome = run_command(predict.main, f"ckpt={trained[0]}", f"input={inputs}", f"output={tmp_path}/out")
    assert outcome.status == 1
    assert "1 of 9 cases failed" in outcome.err
    assert "RuntimeError: out of memory" in outcome.err
    assert "Traceback" in outcome.out, "a fault that no user makes is told with its place"
    assert len(written(tmp_path / "out")) == 8


def test_a_full_disk_ends_all(trained, inputs, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sct.data.formats.base.save_label_map", full)
    outcome = run_command(predict.main, f"ckpt={trained[0]}", f"input={inputs}", f"output={tmp_path}/out")
    assert_one_message(outcome, "No space left on device")
    assert not (tmp_path / "out" / FOLDER / "records").exists()


def test_one_image_goes_to_the_file_that_is_named_whatever_process_this_is(trained, inputs, tmp_path, monkeypatch):
    array = {"TASK_COUNT": "500", "TASK_MIN": "0", "TASK_MAX": "499", "TASK_ID": "7"}
    for name, value in array.items():
        monkeypatch.setenv(f"SLURM_ARRAY_{name}", value)
    (tmp_path / "x").mkdir()
    image, target = inputs / "4.nii.gz", tmp_path / "x/pred.nii.gz"
    for _ in range(2):
        outcome = run_command(predict.main, f"ckpt={trained[0]}", f"input={image}", f"output={target}")
        assert outcome.status == 0, outcome.err
        assert f"{image} -> {target}" in outcome.out, "one image alone is always predicted"
    assert os.listdir(tmp_path / "x") == ["pred.nii.gz"]
    outcome = run_command(predict.main, f"ckpt={trained[0]}", f"input={inputs}", f"output={tmp_path}/out")
    assert outcome.status == 0, outcome.err
    assert "part 7/500 by SLURM_ARRAY_TASK_ID; shard=0/1 takes all: 0 of 9 cases" in outcome.out


def test_several_images_and_one_file_is_told_before_anything_is_made(trained, inputs, tmp_path):
    outcome = run_command(predict.main, f"ckpt={trained[0]}", f"input={inputs}", f"output={tmp_path}/pred.nii.gz")
    assert_one_message(outcome, "output=", "one file, but there are 9 images")
    run = sct.load(trained[0], device="cpu")
    with pytest.raises(UserError, match="one file, but there are 9 images"):
        run.predict_files(inputs, output=tmp_path / "pred.nii.gz")
    assert run.predict_files(inputs / "1.nii.gz", output=tmp_path / "pred.nii.gz") == [tmp_path / "pred.nii.gz"]
    assert {path.name for path in tmp_path.iterdir()} == {"in", "pred.nii.gz"}


def other_set(root: Path, folder: Path, *, number: int = 6) -> Path:
    """A set with other images of the same ids, and some more."""
    shutil.copytree(root, folder)
    about = json.loads((folder / "dataset.json").read_text())
    rng = np.random.default_rng(7)
    for i in range(number):
        voxels = rng.normal(100, 10, (16,) * 3).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"imagesTr/case_{i}.nii.gz")
        shutil.copy(root / "labelsTr/case_0.nii.gz", folder / f"labelsTr/case_{i}.nii.gz")
    about["training"] = [{part: f"./{part}sTr/case_{i}.nii.gz" for part in ("image", "label")} for i in range(number)]
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def scored(output: Path) -> list[str]:
    lines = (output / "cases.csv").read_text().splitlines()[1:]
    return sorted({line.split(",")[0] for line in lines})


def test_another_data_set_is_scored_as_a_whole(trained, tmp_path):
    run, root = trained
    other = other_set(root, tmp_path / "other")
    arguments = [f"ckpt={run}", f"data.root={other}", "figures=0", f"data.cache_dir={tmp_path}/cache"]
    outcome = run_command(evaluation.main, *arguments, f"output={tmp_path}/all")
    assert outcome.status == 0, outcome.err
    assert scored(tmp_path / "all") == [f"case_{i}" for i in range(6)]
    assert "another data set than the run was trained on: all of its cases test" in outcome.out
    assert "4 of its cases have ids of cases that the run was trained or chosen on" in outcome.out
    outcome = run_command(evaluation.main, *arguments, f"output={tmp_path}/some", "data.exclude=[case_0,case_3]")
    assert scored(tmp_path / "some") == ["case_1", "case_2", "case_4", "case_5"], outcome.err
    outcome = run_command(evaluation.main, *arguments, f"output={tmp_path}/x", "data.exclude=[case_7]")
    assert_one_message(outcome, "data.exclude names case_7", "Did you mean 'case_")
    (tmp_path / "split.json").write_text('{"test": ["case_2", "case_5"]}')
    named = run_command(evaluation.main, *arguments, f"output={tmp_path}/named", f"data.split={tmp_path}/split.json")
    assert scored(tmp_path / "named") == ["case_2", "case_5"], named.err
    same = run_command(evaluation.main, *arguments, f"output={tmp_path}/same", "data.split=same")
    assert scored(tmp_path / "same") == [f"case_{i}" for i in range(6)]
    assert "trains on" not in same.out
    # never over the run's own evaluation
    before = files_of(run)
    assert_one_message(run_command(evaluation.main, *arguments), "give output=FOLDER")
    assert_one_message(run_command(evaluation.main, *arguments, "split=val", f"output={tmp_path}/v"), "none is in")
    assert files_of(run) == before


def test_the_runs_own_data_set_elsewhere_keeps_its_parts(trained, tmp_path):
    run, root = trained
    moved = shutil.copytree(root, tmp_path / "moved")
    settings = ["figures=0", f"output={tmp_path}/out", f"data.cache_dir={tmp_path}/cache"]
    outcome = run_command(evaluation.main, f"ckpt={run}", f"data.root={moved}", *settings)
    assert outcome.status == 0, outcome.err
    own = json.loads((run / "card.json").read_text())["split"]
    assert scored(tmp_path / "out") == own["test"]
    assert "the run's own data set" in outcome.out
    left_out = own["test"][0]
    outcome = run_command(evaluation.main, f"ckpt={run}", f"data.root={moved}", *settings, f"data.exclude=[{left_out}]")
    assert_one_message(outcome, "no case to test")


def test_a_training_leaves_excluded_cases_out_and_the_others_where_they_were(trained, tmp_path):
    run, root = trained
    own = json.loads((run / "card.json").read_text())["split"]
    places = [f"data.root={root}", f"paths.cache={tmp_path}/cache", f"run_dir={tmp_path}/run"]
    left_out = own["train"][0]
    outcome = run_command(train.main, *SETTINGS, *places, f"data.exclude=[{left_out}]")
    assert outcome.status == 0, outcome.err
    now = json.loads((tmp_path / "run/card.json").read_text())["split"]
    assert now["train"] == own["train"][1:]
    assert (now["val"], now["test"]) == (own["val"], own["test"])


def test_scores_of_parts_are_those_of_one_process(trained, tmp_path):
    run, root = trained
    other = other_set(root, tmp_path / "other")
    arguments = [f"ckpt={run}", f"data.root={other}", "figures=1", f"data.cache_dir={tmp_path}/cache"]
    assert run_command(evaluation.main, *arguments, f"output={tmp_path}/whole").status == 0
    parts = [*arguments, f"output={tmp_path}/parts"]
    good = (other / "imagesTr/case_4.nii.gz").read_bytes()
    (other / "imagesTr/case_4.nii.gz").write_bytes(good[:50])
    outcomes = [run_command(evaluation.main, *parts, f"shard={i}/3") for i in range(3)]
    (failed,) = [outcome for outcome in outcomes if outcome.status == 1]
    assert_one_message(failed, "case_4: ", "cannot be read")
    assert not (tmp_path / "parts/cases.csv").exists()
    (other / "imagesTr/case_4.nii.gz").write_bytes(good)
    outcome = run_command(evaluation.main, *parts, f"shard={outcomes.index(failed)}/3")
    assert outcome.status == 0, outcome.err
    for name in ("cases.csv", "summary.json"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert len(list((tmp_path / "parts/predictions").iterdir())) == 6
    assert len(list((tmp_path / "parts/figures").iterdir())) == 1
    again = run_command(evaluation.main, *parts, "shard=1/3")
    assert "case 1 of" not in again.out
    assert "**mean**" in again.out
