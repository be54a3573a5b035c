"""Tiny phantoms and a finished training on them, made once for all tests."""

import shutil
from pathlib import Path

import pytest
from commands import SMOKE, run_command

from sct import eval as evaluation
from sct import train


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of all smoke trainings in it, and their outputs."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def smoke(workplace: Path) -> list[str]:
    """The arguments of a training of milliseconds."""
    return [*SMOKE, f"paths.data={workplace}/data", f"paths.cache={workplace}/cache", f"paths.outputs={workplace}/runs"]


@pytest.fixture(scope="session")
def finished_run(smoke: list[str], workplace: Path) -> Path:
    """The folder of a finished training of 4 steps; only to be read."""
    folder = workplace / "finished"
    outcome = run_command(train.main, *smoke, f"run_dir={folder}")
    assert outcome.status == 0, outcome
    return folder


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished training to change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def evaluated(run: Path, place: Path) -> Path:
    """What sct.eval leaves of a module's own `run`, below its own `place`."""
    outcome = run_command(evaluation.main, f"ckpt={run}", f"output={place}/scores")
    assert outcome.status == 0, outcome
    return place / "scores"
