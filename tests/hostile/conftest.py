"""Files from a stranger: what a command does with them beside its message, and hostile copies of a run.

Whatever a hostile file holds would make the file `mark` if it ran. A test passes where there is no mark, where nothing
outside of the folders that the command names has changed, and where no connection and no program was tried.
"""

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import Outcome, assert_one_message, run_command
from exported_runs import exported

from sct import eval as evaluation

IMAGES = "data/phantom_smoke/organs/RawData/Training/img"
SECRET = "the-value-of-a-variable"
# what Python tells its hooks before it does it
WATCHED = (
    *("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"),
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen"),
)
_seen: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    # of the programs that sct itself calls there is one: git, for the commit on a card
    if _seen is not None and event in WATCHED and not (event == "subprocess.Popen" and arguments[0] == "git"):
        _seen.append(f"{event}: {arguments}")


@pytest.fixture(scope="session")
def _watched() -> None:
    sys.addaudithook(_hook)  # stays for the whole process


@dataclass
class Stage:
    """A working directory `here` in which commands get hostile files; `out` is what they may write."""

    here: Path
    others: tuple[Path, ...]

    @property
    def out(self) -> Path:
        return self.here / "out"

    @property
    def mark(self) -> Path:
        return self.here / "mark"

    def run(self, main: Callable[[], None], *arguments: object, writes: tuple[Path, ...] = ()) -> Outcome:
        """What the command says; fails where it did more than write below `out` and the folders `writes`."""
        global _seen
        allowed = (self.out, *writes)
        before, _seen = self.tree(allowed), []
        try:
            outcome = run_command(main, *arguments)
        finally:
            seen, _seen = _seen, None
        assert not seen
        assert not self.mark.exists(), "a hostile file ran"
        assert self.tree(allowed) == before
        self.assert_no_secret()
        return outcome

    def refused(self, main: Callable[[], None], *arguments: object, words: tuple[str, ...]) -> None:
        """The command ends with one message that has these words, and did nothing else."""
        assert_one_message(self.run(main, *arguments), *words)

    def tree(self, allowed: tuple[Path, ...]) -> dict[str, str]:
        """Every file with its digest and every folder, but for those that may change."""
        found = {}
        for root in (self.here, *self.others):
            for path in root.rglob("*"):
                if not any(path.is_relative_to(folder) for folder in allowed):
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        return found

    def assert_no_secret(self) -> None:
        """No file holds the value of the variable of the environment."""
        for path in self.here.rglob("*"):
            assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path

    def touch(self) -> str:
        """Python code that makes the mark."""
        return f"__import__('pathlib').Path({str(self.mark)!r}).touch()"


@pytest.fixture
def stage(tmp_path: Path, workplace: Path, finished_run: Path, monkeypatch, _watched) -> Stage:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCT_SECRET", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return Stage(tmp_path, (workplace / "data", workplace / "cache"))


@pytest.fixture
def image(workplace: Path, finished_run: Path) -> Path:
    """An image that the run can predict."""
    return sorted((workplace / IMAGES).glob("*.nii.gz"))[0]


@pytest.fixture
def run(stage: Stage, finished_run: Path) -> Path:
    """A copy of a finished training, to be made hostile."""
    return Path(shutil.copytree(finished_run, stage.here / "run"))


@pytest.fixture(scope="session")
def scored_run(finished_run: Path, tmp_path_factory) -> Path:
    """A finished training with its evaluation."""
    folder = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("scored") / "run"))
    outcome = run_command(evaluation.main, f"ckpt={folder}", "figures=0", "save_predictions=false")
    assert outcome.status == 0, outcome
    return folder


@pytest.fixture(scope="session")
def torch_export(finished_run: Path, tmp_path_factory) -> Path:
    """An export of the finished training; only to be read."""
    folder = tmp_path_factory.mktemp("exported") / "torch"
    return exported(finished_run, "torch", "windows=1", "agreement=0", output=folder)


@pytest.fixture
def scored(stage: Stage, scored_run: Path) -> Path:
    """A copy of it, to be made hostile."""
    return Path(shutil.copytree(scored_run, stage.here / "run"))
