"""Folders for building: gone in the end, also after a kill, and never taken from a process that works."""

import subprocess
import sys

import pytest
from filelock import FileLock

from sct.runtime.aside import aside, lock_file, remove_abandoned

BUILDER = """
import sys, time
from pathlib import Path
from sct.runtime.aside import aside
with aside(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_but_what_was_moved(tmp_path, fails):
    def build():
        with aside(tmp_path) as folder:
            assert not list(folder.iterdir())
            (folder / "rest").mkdir()
            (folder / "whole").mkdir()
            (folder / "whole").rename(tmp_path / "whole")
            if fails:
                raise ValueError("no")

    if fails:
        with pytest.raises(ValueError, match="no"):
            build()
    else:
        build()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_folder_stays_while_its_process_lives_and_goes_after_its_kill(tmp_path, caplog):
    command = [sys.executable, "-c", BUILDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        folder = tmp_path / process.stdout.readline().strip()
        try:
            with aside(tmp_path) as other:
                assert (folder / "half").exists()
                remove_abandoned(tmp_path)
                assert other.is_dir()
                assert (folder / "half").exists()
        finally:
            process.kill()
    assert (folder / "half").exists()
    caplog.set_level("INFO")
    with aside(tmp_path):
        assert not folder.exists()
    assert f"{folder} is removed" in caplog.text
    assert not list(tmp_path.iterdir())


def test_without_locks_it_works_and_removes_nothing(tmp_path, monkeypatch):
    def fail(self, *args, **kwargs):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", fail)
    with aside(tmp_path) as one:
        with aside(tmp_path) as two:
            assert one.is_dir()
            assert two.is_dir()
        assert list(tmp_path.iterdir()) == [one]
    assert not list(tmp_path.iterdir())


def test_links_and_folders_of_others_are_left_alone(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / ".part-link").symlink_to(outside)
    lock_file(parent / ".part-link").touch()
    for name in (".part-other", ".part-linked-lock"):
        (parent / name).mkdir()
    lock_file(parent / ".part-linked-lock").symlink_to(outside / "file")
    before = sorted(parent.iterdir())
    remove_abandoned(parent)
    assert sorted(parent.iterdir()) == before
    assert (outside / "file").read_text() == "precious"
