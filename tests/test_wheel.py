"""The wheel, installed into an environment of its own: the commands run elsewhere, with own code and configs."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from commands import SMOKE
from own_package import PAGE, write_package

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    """The console scripts of an environment with the wheel; all other packages are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, PAGE.parents[2]], check=True)
    venv.create(folder / "env")
    python = next(path for path in folder.glob("env/*/python*") if path.stem == "python")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", *folder.glob("*.whl")], check=True)
    packages = next(folder.glob("env/**/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def run(scripts: Path, *command: object, home: Path) -> str:
    """What a command of the wheel says; the checkout is not on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program, *arguments = map(str, command)
    done = subprocess.run(
        [scripts / program, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_trains_evaluates_and_predicts_with_own_code_elsewhere(scripts, tmp_path):
    place = run(scripts, "python", "-c", "import sct; print(sct.__file__)", home=tmp_path)
    assert Path(place.strip()).is_relative_to(scripts.parent)
    write_package(tmp_path)
    assert "largest" in run(scripts, "sct-train", "--help", home=tmp_path)
    run(scripts, "sct-train", *SMOKE, "encoder=largest", "run_dir=run", home=tmp_path)
    run(scripts, "sct-eval", "ckpt=run", "plugins=[mypkg]", home=tmp_path)
    image = next((tmp_path / "data").rglob("img*.nii.gz"))
    run(scripts, "sct-predict", "ckpt=run", f"input={image}", "output=labels", "plugins=[mypkg]", home=tmp_path)
    assert (tmp_path / "labels" / image.name).is_file()
    assert (tmp_path / "run/eval/test/table.md").is_file()
    case = image.name.removeprefix("img").removesuffix(".nii.gz")
    run(scripts, "sct-plot", "depth", "run", "--case", case, "--plugins", "mypkg", "--output", "figure", home=tmp_path)
    assert (tmp_path / "figure.png").is_file()
