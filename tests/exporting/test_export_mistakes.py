"""What sct.export and sct.predict refuse: one message with the reason and the remedy, and nothing written over."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import assert_one_message, files_of, flipped, run_command
from exported_runs import add_noise, exported, trained
from torch import Tensor

from sct import export, predict
from sct.config.check import build
from sct.config.command import compose_config
from sct.config.requests import ExportConfig
from sct.errors import UserError
from sct.exporting.torch import TorchExport
from sct.runtime import files
from sct.tasks.export import real_windows

# a small graph, soon written
NETWORK = ("encoder=dense", "encoder.depth=1", "encoder.taps=0", "completion=scatter", "decoder=fcn")


@pytest.fixture(scope="module")
def run(workplace: Path, smoke: list[str]) -> Path:
    folder = trained(workplace / "mistakes_run", *smoke, *NETWORK)
    exported(folder, "torch")
    return folder


@pytest.fixture(scope="module")
def image(run: Path, workplace: Path) -> Path:
    return sorted((workplace / "data" / "phantom_smoke").rglob("img/*.nii.gz"))[-1]


MISTAKES = {
    "no such format": (["format=tensorrt"], ["format=tensorrt", "torch, onnx, openvino, bundle"]),
    "folder in use": (["format=torch"], ["export/torch", "output=FOLDER"]),
    "half a torch graph": (["format=torch", "half=true"], ["half=true", "openvino"]),
    "bf16 where it is not computed": (["format=torch", "precision=bf16"], ["precision=bf16", "fp32", "openvino"]),
    "unknown precision": (["format=torch", "precision=int8"], ["precision=int8", "bf16"]),
    "a format chosen by the machine": (["format=torch", "precision=auto"], ["precision=auto", "Leave precision out"]),
    "batch of a bundle": (["format=bundle", "batch=2"], ["batch=2", "bundle"]),
    "no window": (["format=bundle", "windows=0"], ["windows=0"]),
    "agreement above one": (["format=bundle", "agreement=99"], ["agreement=99", "share"]),
    "unknown key": (["format=bundle", "windos=3"], ["windos", "'windows'"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_export_refuses(run: Path, name: str) -> None:
    arguments, words = MISTAKES[name]
    before = files_of(run)
    assert_one_message(run_command(export.main, f"ckpt={run}", *arguments), *words)
    assert files_of(run) == before


@pytest.mark.parametrize("encoder", ["asvit", "dtop", "apformer"])
def test_methods_that_keep_another_number_of_every_image_have_no_graph(
    workplace: Path, smoke: list[str], tmp_path: Path, encoder: str
) -> None:
    settings = [f"encoder={encoder}", "encoder.depth=3", "completion=scatter", "decoder=fcn", "pruning.blocks=[1]"]
    run = trained(tmp_path / "run", *smoke, *settings)
    outcome = run_command(export.main, f"ckpt={run}", "format=torch")
    who = "encoder.gate" if encoder == "apformer" else "encoder.reducer="
    assert_one_message(outcome, who, "each image", "format=bundle", "encoder=stp")
    assert not (run / "export").exists()
    folder = exported(run, "bundle")
    assert json.loads((folder / "export.json").read_text())["check"]["equal_labels"] == 1.0


def test_an_export_that_disagrees_fails_and_is_not_used(
    run: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = TorchExport.load

    def load_turned(self: TorchExport, folder: Path, **settings) -> object:
        model = load(self, folder, **settings)

        def turned(windows: Tensor) -> Tensor:
            return model(windows).roll(1, dims=1)

        return turned

    with monkeypatch.context() as patch:
        patch.setattr(TorchExport, "load", load_turned)
        outcome = run_command(export.main, f"ckpt={run}", "format=torch", f"output={tmp_path}/bad")
    assert_one_message(outcome, "does not agree", "agreement=0.999", f"{tmp_path}/bad")
    note = json.loads((tmp_path / "bad" / "export.json").read_text())
    assert not note["check"]["passed"]
    assert (tmp_path / "bad" / "model.pt2").exists()
    outcome = run_command(predict.main, f"ckpt={tmp_path}/bad", f"input={image}", f"output={tmp_path}/out")
    assert_one_message(outcome, "failed the check", "Export the run again")


def test_windows_of_an_image_take_the_place_of_data_that_are_gone(image: Path) -> None:
    places = ["data.root=/gone", "data.cache=none", "data.roi_size=[16,16,16]", "data.spacing=null"]
    data = build(compose_config("train", overrides=["data=btcv", *places]).data, key="data")
    with pytest.raises(UserError, match=r"(?s)/gone.*data\.root=FOLDER, or input=FILE"):
        real_windows(ExportConfig(), data=data)
    assert real_windows(ExportConfig(input=str(image), windows=3), data=data).shape == (3, 1, 16, 16, 16)


def test_predict_refuses(run: Path, image: Path, tmp_path: Path) -> None:
    def told(*arguments: object) -> None:
        *settings, words = arguments
        outcome = run_command(predict.main, f"input={image}", f"output={tmp_path}/out", *settings)
        assert_one_message(outcome, *words)

    told(f"ckpt={run}", "backend=tflite", ["backend=tflite", "torch, onnx, openvino"])
    told(f"ckpt={run}", "backend=openvino", ["no export", f"sct.export ckpt={run} format=openvino"])
    told(f"ckpt={run}/export/torch", "backend=onnx", ["backend=onnx", "has format torch"])
    told(f"ckpt={run}", "backend=torch", "precision=bf16", ["precision=bf16", "openvino"])
    told(f"ckpt={run}", "backend=torch", "precision=auto", ["precision=auto", "Leave precision out", "fp32"])
    bundle = exported(run, "bundle", output=tmp_path / "bundle")
    told(f"ckpt={bundle}", [f"{bundle} is a bundle", "README.md", "ckpt=RUN"])
    (bundle / "export.json").write_text("{}")
    told(f"ckpt={bundle}", ["export.json", "Export the run again"])
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_trained_on_is_not_predicted_with_its_old_export(run: Path, image: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    add_noise(copy / "checkpoints" / "best.pt", seed=1)
    settings = ("backend=torch", f"input={image}", f"output={tmp_path}/out")
    outcome = run_command(predict.main, f"ckpt={copy}", *settings)
    assert_one_message(outcome, "other weights", "Export the run again", f"ckpt={copy}/export/torch")


def test_a_flipped_bit_of_an_export_is_noticed(run: Path, image: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run / "export" / "torch", tmp_path / "copy"))
    arguments = (f"ckpt={folder}", f"input={image}", f"output={tmp_path}/out")
    for path, words in (
        (folder / "model.pt2", ["is not the file that was exported"]),
        (folder / "export.json", ["not as it was written"]),
    ):
        whole = path.read_bytes()
        place = whole.index(b'"batch_size": ') + 14 if path.suffix == ".json" else len(whole) // 2
        path.write_bytes(flipped(whole, bit=8 * place))
        assert_one_message(run_command(predict.main, *arguments), path, *words, "xport the run again")
        path.write_bytes(whole)
    (folder / "model.pt2").unlink()
    assert_one_message(run_command(predict.main, *arguments), "model.pt2 does not exist")


def test_a_failed_export_leaves_nothing_and_does_not_block_the_next(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (f"ckpt={run}", "format=torch", f"output={tmp_path}/place/export")

    def cut_short(program: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "save", cut_short)
        patch.setattr(files, "why_full", lambda folder: OSError(errno.ENOSPC, "No space left on device", str(folder)))
        assert_one_message(run_command(export.main, *arguments), "No space left on device", "Make room")
    assert not list((tmp_path / "place").iterdir())
    assert run_command(export.main, *arguments).status == 0
