"""Exported networks say what the original says, through the commands and on real windows."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import run_command
from exported_runs import GRAPHS, PACKAGES, exported, needs, trained
from PIL import Image

from sct import predict
from sct.data.phantoms.phantom import ORGANS
from sct.profiling.windows import sample_windows
from sct.runs.postprocessing import write_choice
from sct.runs.run import open_run

CPU = torch.device("cpu")
# 64 tokens, of which 32 stay; the decoder may skip the patches of the others
NETWORK = (
    "encoder.depth=2",
    "encoder.patch_size=4",
    "pruning.blocks=[1]",
    "decoder=patchwise",
    "decoder.skip_above=0.5",
)
# post-processing that changes a map of random weights
STEPS = {organ.name: {"largest": True} for organ in ORGANS}
PICTURES = ("+experiment=demo", "+debug=smoke_isic", "trainer.tensorboard=false", "encoder.depth=2")


@pytest.fixture(scope="module")
def run(workplace: Path, smoke: list[str]) -> Path:
    # a draw in which some tokens are sure of background
    folder = trained(workplace / "exported_run", *smoke, *NETWORK, seed=7)
    write_choice(folder, {"steps": STEPS})
    return folder


@pytest.fixture(scope="module")
def image(run: Path, workplace: Path) -> Path:
    return sorted((workplace / "data" / "phantom_smoke").rglob("img/*.nii.gz"))[-1]


@pytest.fixture(scope="module")
def own(run: Path, image: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Label map of the run's own network."""
    return predicted(tmp_path_factory.mktemp("own"), image, f"ckpt={run}")


@pytest.fixture(scope="module")
def written(run: Path) -> dict[str, Path]:
    """Every format that can be written here."""
    done = {}
    for name in PACKAGES:
        try:
            done[name] = exported(run, name)
        except pytest.skip.Exception:
            continue
    return done


def predicted(folder: Path, image: Path, *settings: str) -> np.ndarray:
    outcome = run_command(predict.main, f"input={image}", f"output={folder}", *settings)
    assert outcome.status == 0, outcome
    return np.asarray(nib.load(folder / image.name).dataobj)


@torch.no_grad()
def test_the_network_of_these_tests_drops_tokens_and_skips_patches(run: Path) -> None:
    opened = open_run(str(run), device=str(CPU), precision="fp32")
    data, network = opened.data, opened.network
    prediction = network.predict(sample_windows(data, count=4))
    assert [alive.tolist() for alive in prediction.encoded.alive] == [[32] * 4]
    kept = prediction.encoded.final.index
    assert any(not torch.equal(kept[0], other) for other in kept[1:])
    assert 0 < prediction.aux["skipped"].mean() < 0.5
    assert len(prediction.logits.argmax(dim=1).unique()) > 2


@pytest.mark.parametrize("name", PACKAGES)
def test_export_agrees_and_says_what_it_is(written: dict[str, Path], name: str) -> None:
    needs(name)
    note = json.loads((written[name] / "export.json").read_text())
    assert note["check"]["passed"]
    assert note["check"]["equal_labels"] == 1.0
    assert note["check"]["largest_difference"] < 1e-4 * note["check"]["largest_logit"]
    assert note["inputs"] == {"image": [None, 1, 16, 16, 16]}
    assert note["outputs"] == {"logits": [None, 7, 16, 16, 16]}
    assert note["labels"][0] == "background"
    assert note["card"]["config"]["name"] == "smoke"


@pytest.mark.parametrize("name", GRAPHS)
def test_prediction_is_that_of_the_run(
    written: dict[str, Path], run: Path, image: Path, own: np.ndarray, tmp_path: Path, name: str
) -> None:
    needs(name)
    labels = predicted(tmp_path, image, f"ckpt={run}", f"backend={name}")
    np.testing.assert_array_equal(labels, own)
    assert len(np.unique(own)) > 2


def test_an_exported_folder_needs_neither_run_nor_data(
    written: dict[str, Path], image: Path, own: np.ndarray, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written["torch"], tmp_path / "elsewhere"))
    note = json.loads((folder / "export.json").read_text())
    note["config"]["data"]["root"] = str(tmp_path / "nowhere")
    del note["digest"]
    (folder / "export.json").write_text(json.dumps(note))
    np.testing.assert_array_equal(predicted(tmp_path / "out", image, f"ckpt={folder}"), own)
    # the run's post-processing is in it
    assert note["postprocessing"] == STEPS
    raw = predicted(tmp_path / "raw", image, f"ckpt={folder}", "postprocess=none")
    assert (raw != own).any()
    # an earlier export knows none
    del note["postprocessing"]
    (folder / "export.json").write_text(json.dumps(note))
    np.testing.assert_array_equal(predicted(tmp_path / "before", image, f"ckpt={folder}"), raw)


def test_pictures(workplace: Path, tmp_path: Path) -> None:
    name = "torch"
    places = [f"paths.{place}={workplace}/{place}" for place in ("data", "cache", "outputs")]
    run = trained(tmp_path / "run", *PICTURES, *places, "completion=mim", "decoder=patchwise", "pruning.blocks=[1]")
    folder = exported(run, name)
    assert json.loads((folder / "export.json").read_text())["inputs"]["image"] == [None, 3, 64, 64]
    image = sorted((workplace / "data" / "phantom_isic_smoke").rglob("*.jpg"))[-1]
    masks = []
    for number, backend in enumerate(([], [f"backend={name}"])):
        outcome = run_command(predict.main, f"ckpt={run}", f"input={image}", f"output={tmp_path}/{number}", *backend)
        assert outcome.status == 0, outcome
        (path,) = (tmp_path / str(number)).glob("*.png")
        masks.append(np.asarray(Image.open(path)))
    np.testing.assert_array_equal(*masks)
    assert len(np.unique(masks[0])) == 2
