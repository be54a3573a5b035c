"""An exported bundle through MONAI's own commands: `run` in a process of its own, as a user starts it."""

import json
import logging
import runpy
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import own_settings, run_command
from exported_runs import exported, trained

import sct
from sct import predict
from sct.data.phantoms.phantom import ORGANS
from sct.exporting.bundle import INFERENCE, METADATA
from sct.inference.look import Look
from sct.runs.look import write_look
from sct.runs.postprocessing import write_choice

pytest.importorskip("fire", reason="monai.bundle's commands need the extra bundle: fire is not installed")
pytest.importorskip("jsonschema", reason="verify_metadata needs the extra bundle: jsonschema is not installed")

# What MONAI's schema of 2024-07-25 asks, in our own words: the file itself lies on a server that a test can't ask.
TENSOR = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "format": {"type": "string"},
        "dtype": {"type": "string"},
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}
TEXTS = (
    "schema", "version", "monai_version", "pytorch_version", "numpy_version",
    "task", "description", "authors", "copyright",
)  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in TEXTS},
        "changelog": {"type": "object"},
        "required_packages_version": {"type": "object"},
        "network_data_format": {
            "type": "object",
            "properties": {
                side: {"type": "object", "additionalProperties": TENSOR, "minProperties": 1}
                for side in ("inputs", "outputs")
            },
            "required": ["inputs", "outputs"],
        },
    },
    "required": [*TEXTS, "required_packages_version", "network_data_format"],
}


@pytest.fixture(scope="module")
def run(workplace: Path, smoke: list[str]) -> Path:
    settings = ("encoder.depth=2", "decoder=thin", "pruning.blocks=[1]", "look=first")
    folder = trained(workplace / "bundled_run", *smoke, *settings)
    opened = sct.load(folder, device="cpu")
    image = opened.data.load_case(opened.data.cases("test")[0]).image
    # to which one patch of the image is worth predicting
    highest = opened.network.look.scan(image, device=opened.device).max().item()
    write_look(folder, Look(highest - 1e-6, 0).settings())
    write_choice(folder, {"steps": {organ.name: {"largest": True} for organ in ORGANS}})
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(run, "bundle", output=tmp_path_factory.mktemp("bundle") / "here")


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    # MONAI fetches nothing where the file is there
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path


def monai(command: str, *arguments: object) -> None:
    """`python -m monai.bundle`, in this process and in the current folder."""
    with pytest.MonkeyPatch.context() as patch, own_settings():
        patch.setattr(sys, "argv", ["monai.bundle", command, *map(str, arguments)])
        runpy.run_module("monai.bundle", run_name="__main__")


def test_metadata_is_what_monai_asks(bundle: Path, schema: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monai("verify_metadata", "--meta_file", bundle / METADATA, "--filepath", schema)
    assert "metadata is verified with no error" in caplog.text


def test_metadata_without_a_field_is_refused(bundle: Path, schema: Path, tmp_path: Path) -> None:
    lacking = json.loads((bundle / METADATA).read_text())
    del lacking["network_data_format"]["inputs"]["image"]["dtype"]
    (tmp_path / "lacking.json").write_text(json.dumps(lacking))
    with pytest.raises(ValueError, match="'dtype' is a required property"):
        monai("verify_metadata", "--meta_file", tmp_path / "lacking.json", "--filepath", schema)


def test_network_takes_and_gives_what_the_metadata_says(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    where = ("--config_file", bundle / INFERENCE, "--meta_file", bundle / METADATA, "--device", "cpu")
    monai("verify_net_in_out", "network_def", *where)
    assert "data shape of network is verified with no error" in caplog.text


def test_run_writes_the_labels_of_the_run(bundle: Path, run: Path, workplace: Path, tmp_path: Path) -> None:
    image = sorted((workplace / "data" / "phantom_smoke").rglob("img/*.nii.gz"))[-1]
    where = ("--config_file", INFERENCE, "--dataset_dir", str(image), "--output_dir", str(tmp_path / "bundle"))
    command = [sys.executable, "-m", "monai.bundle", "run", *where]
    outcome = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    predicted = run_command(predict.main, f"ckpt={run}", f"input={image}", f"output={tmp_path}/own")
    assert predicted.status == 0, predicted
    (theirs,) = (tmp_path / "bundle").rglob("*.nii.gz")
    own, labels = (np.asarray(nib.load(path).dataobj) for path in (tmp_path / "own" / image.name, theirs))
    np.testing.assert_array_equal(labels, own)
    assert len(np.unique(own)) > 2
    for setting in ("postprocess=none", "first_look=none"):
        output = tmp_path / setting.partition("=")[0]
        raw = run_command(predict.main, f"ckpt={run}", f"input={image}", f"output={output}", setting)
        assert raw.status == 0, raw
        assert (np.asarray(nib.load(output / image.name).dataobj) != own).any(), setting
