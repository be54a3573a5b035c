"""A folder that a stranger has sent, as the working directory of a console script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sct

# packages that need not be installed, and that torch, MONAI, Hydra or this project look for
ASKED_FOR = (
    *("cucim", "cupy", "clearml", "fire", "ignite", "itk", "lmdb", "mlflow", "pandas", "skimage", "tensorrt"),
    *("torchvision", "transformers", "triton", "zarr", "hydra_plugins/own", "onnxruntime", "openvino", "timm"),
)
COMMANDS = {
    "predict": ("sct.predict", ["ckpt=run", "input={image}", "output=out"]),
    "report": ("sct.report", ["runs=run", "output=out"]),
    "plots": ("sct.plots.__main__", ["curves", "--run", "x=run", "--output", "out"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_of_the_working_directory_runs(name, stage, run, image):
    (stage.here / "hydra_plugins").mkdir()
    for package in ASKED_FOR:
        (stage.here / f"{package}.py").write_text(stage.touch())
    module, arguments = COMMANDS[name]
    script = stage.here / "home/script"
    script.write_text(f"from {module} import main\nmain()\n")
    command = [sys.executable, str(script), *(argument.format(image=image) for argument in arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(sct.__file__).parents[1])}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert "Traceback" not in ended.stderr, ended.stderr
    assert not stage.mark.exists(), ended.stderr
