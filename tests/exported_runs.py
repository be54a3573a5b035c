"""Small trained runs whose scores are apart, so that no rounding chooses the tokens."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from commands import run_command

from sct import export, train
from sct.runtime import checkpoint

PACKAGES = {"torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "bundle": ()}
GRAPHS = ("torch", "onnx", "openvino")


def needs(name: str) -> None:
    """Skips a test where the packages of a format are missing."""
    for package in PACKAGES[name]:
        if find_spec(package) is None:
            pytest.skip(f"format={name} needs the extra {name}: {package} is not installed")


def trained(folder: Path, *settings: str, seed: int = 0) -> Path:
    """A run of one step, noise added to its weights: scorers that have learned nothing score all tokens alike."""
    outcome = run_command(train.main, *settings, "trainer.max_steps=1", f"run_dir={folder}")
    assert outcome.status == 0, outcome
    for path in (folder / checkpoint.FOLDER).glob("*.pt"):
        add_noise(path, seed=seed)
    return folder


def add_noise(path: Path, *, seed: int) -> None:
    """Changes the weights of a checkpoint."""
    state = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in state["model"].items():
        if weight.is_floating_point() and "running" not in name:
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    torch.save(state, path)


def exported(run: Path, name: str, *settings: str, output: Path | None = None) -> Path:
    """What sct.export writes, in the run's folder or in `output`."""
    needs(name)
    where = [f"output={output}"] if output else []
    outcome = run_command(export.main, f"ckpt={run}", f"format={name}", *settings, *where)
    assert outcome.status == 0, outcome
    return output or run / "export" / name
