"""The Python interface: a trained run as one object, and an untrained experiment."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import run_command

import sct
from sct import eval as evaluation
from sct import predict
from sct.errors import UserError
from sct.runs.run import Run


@pytest.fixture(scope="module")
def image(workplace: Path, finished_run: Path) -> Path:
    return next((workplace / "data/phantom_smoke/organs").rglob("img0004.nii.gz"))


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return sct.load(finished_run, device="cpu")


def test_a_file_is_predicted_as_by_the_command(run, finished_run, image, tmp_path):
    outcome = run_command(predict.main, f"ckpt={finished_run}", f"input={image}", f"output={tmp_path}/command")
    assert outcome.status == 0, outcome.err
    found = run.predict(image)
    saved = nib.load(found.save(tmp_path / "saved"))
    (written,) = map(nib.load, (tmp_path / "command").iterdir())
    np.testing.assert_array_equal(found.labels, np.asarray(written.dataobj))
    np.testing.assert_array_equal(np.asarray(saved.dataobj), np.asarray(written.dataobj))
    np.testing.assert_array_equal(saved.affine, nib.load(image).affine)
    assert saved.header.get_data_dtype() == written.header.get_data_dtype()
    assert found.names == run.data.outputs.legend
    assert found.spacing == pytest.approx(nib.load(image).header.get_zooms())
    np.testing.assert_array_equal(np.asarray(found), found.labels)


def test_an_array_with_its_affine_is_predicted_as_its_file(run, image, tmp_path, caplog):
    source = nib.load(image)
    voxels = np.asarray(source.dataobj)
    expected = run.predict(str(image)).labels
    for array in (voxels, voxels[None], voxels.astype(np.float64)):
        found = run.predict(array, affine=source.affine)
        np.testing.assert_array_equal(found.labels, expected)
    saved = nib.load(found.save(tmp_path / "labels.nii.gz"))
    np.testing.assert_array_equal(saved.affine, source.affine)
    np.testing.assert_array_equal(np.asarray(saved.dataobj), expected)
    # with a spacing alone, the axes are those of RAS, and a warning says so
    spaced = run.predict(voxels, spacing=(1.0, 2.0, 3.0))
    same = run.predict(voxels, affine=np.diag([1.0, 2.0, 3.0, 1.0]))
    assert spaced.spacing == (1.0, 2.0, 3.0)
    np.testing.assert_array_equal(spaced.labels, same.labels)
    assert "taken as RAS" in caplog.text
    # the phantoms lie as scanners store them
    lps = run.predict(voxels, spacing=source.header.get_zooms(), orientation="LPS")
    np.testing.assert_array_equal(lps.labels, expected)
    assert nib.aff2axcodes(lps.affine) == ("L", "P", "S")


@pytest.mark.parametrize(
    ("shape", "settings", "words"),
    [
        ((8, 8), {"spacing": (1, 1, 1)}, "network takes (1, X, Y, Z)"),
        ((2, 8, 8, 8), {"spacing": (1, 1, 1)}, "network takes (1, X, Y, Z)"),
        ((8, 8, 8, 1), {"spacing": (1, 1, 1)}, "Channels come first: np.moveaxis(array, -1, 0)"),
        ((8, 8, 8), {}, "give spacing=(x, y, z)"),
        ((8, 8, 8), {"spacing": (1, 1)}, "expected 3 positive numbers"),
        ((8, 8, 8), {"spacing": (1, 0, 1)}, "expected 3 positive numbers"),
        ((8, 8, 8), {"affine": np.eye(3)}, "expected (4, 4)"),
        ((8, 8, 8), {"spacing": (1, 1, 1), "orientation": "LPX"}, "orientation=LPX"),
        ((8, 8, 8), {"affine": np.eye(4), "orientation": "LPS"}, "orientation goes with spacing"),
        ((8, 8, 8), {"affine": np.eye(4), "spacing": (1, 1, 1)}, "give one of them"),
        ((8, 8, 8), {"affine": np.zeros((4, 4))}, "not positive along every axis"),
    ],
)
def test_a_wrong_array_is_refused(run, shape, settings, words, monkeypatch):
    monkeypatch.setattr(run.data, "spacing", [1.0, 1.0, 1.0])
    with pytest.raises(UserError) as error:
        run.predict(np.zeros(shape), **settings)
    assert words in str(error.value)


def test_values_that_are_not_finite_are_refused(run):
    voxels = np.zeros((8, 8, 8))
    voxels[1, 2, 3] = np.nan
    with pytest.raises(UserError, match="the array: has 1 intensities that are NaN or infinite"):
        run.predict(voxels, spacing=(1, 1, 1))
    with pytest.raises(UserError, match="give real numbers"):
        run.predict(np.zeros((8, 8, 8), dtype=complex), spacing=(1, 1, 1))


def test_what_is_no_array_or_no_label_map_is_refused(run, image, tmp_path):
    with pytest.raises(UserError, match=r"image.get_fdata\(\) with affine=image.affine"):
        run.predict(nib.load(image))
    with pytest.raises(UserError, match="one number of mm for each axis"):
        run.predict(np.zeros((8, 8, 8)), spacing=2.0)
    found = run.predict(image)
    with pytest.raises(UserError, match=r"can be saved as \.nii\.gz"):
        found.save(tmp_path / "labels.png")
    assert found.save(tmp_path / "case.5").name == "case.5.nii.gz"
    assert repr(found).startswith("Segmentation(24 x 24 x 16 voxels of 5 x 5 x 8 mm, labels background, ")


def test_a_file_takes_no_affine(run, image):
    with pytest.raises(UserError, match="spacing and orientation are for arrays"):
        run.predict(image, spacing=(1, 1, 1))


def test_the_depth_of_patches_lies_on_the_grid_of_the_image(run, image):
    found = run.predict(image, return_depth=True)
    assert found.depth.shape == found.labels.shape
    stages = run.network.encoder.spec.num_depths
    assert set(np.unique(found.depth)) <= set(range(stages + 1))
    assert found.depth.max() == stages
    np.testing.assert_array_equal(found.labels, run.predict(image).labels)
    # turned around, the image has the same depths at the same places
    source = nib.load(image)
    flipped = np.ascontiguousarray(np.asarray(source.dataobj)[::-1])
    affine = source.affine @ np.array([[-1, 0, 0, flipped.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    np.testing.assert_array_equal(run.predict(flipped, affine=affine, return_depth=True).depth[::-1], found.depth)


def test_an_evaluation_is_that_of_the_command(run, finished_run, tmp_path):
    outcome = run_command(evaluation.main, f"ckpt={finished_run}", f"output={tmp_path}/command")
    assert outcome.status == 0, outcome.err
    before = sorted(finished_run.rglob("*"))
    scores = run.evaluate()
    assert sorted(finished_run.rglob("*")) == before
    written = json.loads((tmp_path / "command/summary.json").read_text())
    assert scores.summary["dice"] == written["dice"]
    assert scores.table() in (tmp_path / "command/table.md").read_text()
    assert run.evaluate("test", output=tmp_path / "python", figures=0).summary["dice"] == written["dice"]
    names = {path.name for path in (tmp_path / "python").iterdir()}
    assert names == {"cases.csv", "summary.json", "table.md", "predictions", "card.json"}
    with pytest.raises(UserError, match="must be val or test"):
        run.evaluate("train")


def test_a_profile_leaves_the_weights_as_they_are(run):
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    profile = run.profile(latency=False)
    assert profile.macs["total"] > 0
    assert "MACs of one image" in profile.table()
    for name, tensor in run.network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not run.network.training


def test_settings_are_those_of_the_command_line(finished_run):
    run = sct.load(str(finished_run), device="cpu", precision="fp32", overrides=["inferer.overlap=0.25"])
    assert run.inferer.overlap == 0.25
    assert run.number_format.name == "fp32"
    assert run.config.name == json.loads((finished_run / "card.json").read_text())["config"]["name"]
    with pytest.raises(UserError, match=r"inferer\.overlab"):
        sct.load(finished_run, overrides=["inferer.overlab=0.25"])
    with pytest.raises(UserError, match="neither a checkpoint file nor a run folder"):
        sct.load("nowhere")
    with pytest.raises(UserError, match="precision"):
        sct.load(finished_run, precision="fp8")


SMALL = ("encoder.depth=2", "encoder.dim=24", "encoder.num_heads=2", "pruning.blocks=[1]")


def test_an_untrained_experiment():
    experiment = sct.build("demo", overrides=SMALL, device="cpu")
    assert len(experiment.network.encoder.blocks) == 2
    image = torch.zeros(1, experiment.data.num_channels, *experiment.data.roi_size)
    prediction = experiment.network(image)
    target = torch.zeros(1, *experiment.data.roi_size, dtype=torch.int64)
    assert experiment.criterion(prediction, target, image=image)["loss"] > 0
    assert experiment.profile(latency=False, training=False).params > 0
    # the same seed, the same weights
    again = sct.build("demo", overrides=SMALL, device="cpu")
    assert torch.equal(next(again.network.parameters()), next(experiment.network.parameters()))


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("dmeo", [], "no experiment=dmeo. Did you mean 'demo'"),
        ("demo", ["encoder.dpth=2"], "encoder.dpth"),
        ("demo", ["encoder.depth=two"], "encoder.depth=two must be"),
        ("demo", ["seed=abc"], "seed"),
    ],
)
def test_mistakes_are_one_message_of_one_type(name, overrides, words):
    with pytest.raises(UserError) as error:
        sct.build(name, overrides=overrides)
    assert words in str(error.value)
