"""What a command imports: nothing heavy before its config proved good, and then only what its task needs."""

import gc
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sct.config.check import build, to_dict
from sct.config.command import compose_config, imported
from sct.config.folders import PACKAGE
from sct.runs.build import build_segmenter
from sct.runtime import checkpoint

COMMANDS = ("train", "eval", "predict", "export", "profile", "report", "verify")
# what a prediction must not import: some of them take as long as torch itself, and MONAI brings most of the others
UNUSED = (
    *("monai", "pandas", "sklearn", "skimage", "matplotlib", "tensorboard", "torch.utils.tensorboard", "h5py"),
    *("sympy", "fvcore", "onnx", "openvino", "SimpleITK", "highdicom", "torch._dynamo", "torch._inductor"),
    *("scipy.ndimage", "scipy.spatial", "scipy.stats", "sct.evaluation", "sct.training", "sct.losses"),
)
# predicts one case with a run, as the command does, and prints what is loaded after it
PREDICTION = """
import json, runpy, sys
runpy.run_module("sct.predict", run_name="__main__", alter_sys=True)
print(json.dumps(sorted(sys.modules)))
"""
# together they take seconds
HEAVY = ("torch", "monai", "scipy", "nibabel", "matplotlib", "tensorboard")
# runs commands one after the other, as `python -m` does, and gives of each the exit status, the output and what is
# loaded after it
PROGRAM = """
import contextlib, io, json, runpy, sys
results = []
for module, *sys.argv[1:] in json.load(sys.stdin):
    told, status = io.StringIO(), 0
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            status = stop.code or 0
    results.append([status, told.getvalue(), sorted(sys.modules)])
print(json.dumps(results))
"""
# command -> what it tells
PAGES = {
    "sct.train --help": "btcv_dense_unetr",
    "sct.eval --help": "cases to score: val or test",
    "sct.data check --help": "cases to train on",
    "sct.data plan --help": "replace the files of an earlier plan",
    "sct.train +experiment=btcv_stp_mta -c job": "max_steps: 45000",
}
MISTAKES = {
    "sct.train trainer.max_stps=5": "Did you mean 'trainer.max_steps'?",
    "sct.train trainer.max_steps=0": "trainer.max_steps=0 must be at least 1",
    "sct.train +encoder.num_classes=5": "encoder.num_classes can't be set: ViTEncoder is given it by the program",
    "sct.train +encoder.reducer.spec=5": "encoder.reducer.spec can't be set: STP is given it by the program",
    "sct.train +encoder.reducer.xyz=5": "STP has no such setting. Known: blocks, ratio",
    "sct.train +encoder.dimm=5": "ViTEncoder has no such setting. Did you mean 'dim'?",
    "sct.train +experiment=btcv_fast_stp encoder=dense completion=scatter": "take it out: '~completion.dim'.",
    "sct.train encoder.dim=abc": "encoder.dim=abc must be a whole number.",
    "sct.train data.root=???": "data.root is not set",
    "sct.profile encoder.reducer.rounding=up": "encoder.reducer.rounding=up must be one of nearest, floor",
    "sct.data plan": "data.root is not set; give it on the command line",
    "sct.data plan data.root=x device=gpu": "device=gpu must be auto, cpu or cuda",
    "sct.data check data.batch_size=two": "data.batch_size=two must be a whole number",
    "sct.eval": "ckpt is not set",
    "sct.predict ckpt=run input=x output=y precision=fp8": "precision=fp8 must be one of",
    "sct.export ckpt=run format=onnx windows=0": "windows=0 must be at least 1",
    "sct.report runs=runs clases=true": "Did you mean 'classes'?",
    "sct.verify": "Give ckpt=RUN",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, tuple[int, str, set[str]]]:
    """Exit status, output and loaded modules after each command, all run in one process."""
    commands = [*PAGES, *MISTAKES]
    folder = tmp_path_factory.mktemp("empty")
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        input=json.dumps([command.split() for command in commands]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert not list(folder.iterdir())
    found = json.loads(process.stdout)
    return {command: (status, told, set(names)) for command, (status, told, names) in zip(commands, found, strict=True)}


@pytest.mark.parametrize("command", [*PAGES, *MISTAKES])
def test_the_answer_comes_before_anything_heavy_is_imported(command, results):
    status, told, modules = results[command]
    assert status == (0 if command in PAGES else 1)
    assert (PAGES | MISTAKES)[command] in told
    assert modules & set(HEAVY) == set()


def test_nothing_is_collected_while_a_task_is_imported(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_task.py").write_text("import gc\nENABLED = gc.isenabled()\n")
    (tmp_path / "broken_task.py").write_text("raise ImportError\n")
    try:
        assert not imported("some_task").ENABLED
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        # a second job of a sweep: what the first one left behind stays collectable
        gc.unfreeze()
        assert not imported("some_task").ENABLED
        assert gc.get_freeze_count() == 0
    finally:
        gc.unfreeze()
        sys.modules.pop("some_task", None)
    with pytest.raises(ImportError):
        imported("broken_task")
    assert gc.isenabled()


def test_the_task_of_every_command_is_there():
    files = [PACKAGE / f"{name}.py" for name in COMMANDS] + [PACKAGE / "data" / "__main__.py"]
    named = [name for file in files for name in re.findall(r'"(sct\.tasks\.\w+:\w+)"', Path(file).read_text())]
    assert len(named) == len(COMMANDS) + 3
    for name in named:
        module, function = name.split(":")
        assert callable(getattr(import_module(module), function))


@pytest.fixture(scope="module")
def fast_run(tmp_path_factory) -> Path:
    """A little network as `btcv_fast_stp`, untrained."""
    little = ("data.roi_size=[32,32,32]", "encoder.dim=24", "encoder.num_heads=2", "completion.dim=24")
    cfg = compose_config("train", overrides=["+experiment=btcv_fast_stp", *little])
    segmenter = build_segmenter(cfg, data=build(cfg.data, key="data"))
    state = {"config": to_dict(cfg), "model": segmenter.state_dict(), "step": 0, "best": {}}
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(state, folder / checkpoint.FOLDER / "best.pt")
    return folder


def test_a_prediction_imports_only_what_it_needs(fast_run, tmp_path):
    """From the command line to the label file; a whole prediction, since much is imported in functions."""
    voxels = np.random.default_rng(0).integers(-1000, 400, (20, 24, 28)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.7, 1.4, 3.0, 1.0])), tmp_path / "ct.nii.gz")
    where = [f"ckpt={fast_run}", f"input={tmp_path}/ct.nii.gz", f"output={tmp_path}/labels.nii.gz", "device=cpu"]
    process = subprocess.run(
        [sys.executable, "-c", PREDICTION, *where], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "labels.nii.gz").exists()
    loaded = set(json.loads(process.stdout.splitlines()[-1]))
    assert "sct.inference.fast" in loaded
    assert loaded & set(UNUSED) == set()
