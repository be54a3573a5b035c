"""One thread a process; tiny phantoms and a finished training on them, made once for all tests of a process."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import SMOKE, run_command

from sct import eval as evaluation
from sct import train

MAX_PROCESSES = 8  # a process takes 1 to 2 GB


def pytest_configure() -> None:
    """One thread, here and in all processes that are started from here: the tensors are tiny, and the cores in use."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test leaves no threads behind: on busy cores they wait for each other, which takes many times longer."""
    yield
    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A process for every core that the tests may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_PROCESSES)


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
