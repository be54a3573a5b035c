"""Work that several processes share: done once, claimed by one, found again, tried again where it failed."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from commands import flipped

from sct.runtime.ledger import Claim, Ledger, Task, hashed


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    found = []
    for name in ("a", "b/c", "d"):
        source = tmp_path / "in" / f"{name}.txt"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(name)
        found.append(Task(name, (source,), tmp_path / "out" / f"{name}.txt"))
    return found


def ledger(tmp_path: Path, made_by: str = "x") -> Ledger:
    return Ledger(tmp_path / "out" / ".records", made_by=made_by)


def finish(claim: Claim, text: str = "done") -> None:
    place = claim.place("result.txt")
    place.write_text(text)
    claim.finish(text, written=place)


def work(tmp_path: Path, tasks: list[Task], made_by: str = "x") -> list[str]:
    """The names of what there was to do."""
    with ledger(tmp_path, made_by) as book:
        names = []
        for claim in book.claims(tasks):
            finish(claim)
            names.append(claim.task.name)
    return names


ALL = ["a", "b/c", "d"]


def test_what_is_done_is_not_done_again(tmp_path, tasks):
    assert work(tmp_path, tasks) == ALL
    assert work(tmp_path, tasks) == []
    with ledger(tmp_path) as book:
        assert list(book.claims(tasks)) == []
        assert book.found == ALL
        assert book.result(tasks[1]) == "done"
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".txt", ".json"}, "nothing else is left"


def test_other_files_settings_and_outputs_are_done_again(tmp_path, tasks):
    work(tmp_path, tasks)
    tasks[0].files[0].write_text("another text")
    assert work(tmp_path, tasks) == ["a"]
    tasks[1].output.unlink()
    tasks[2].output.write_text("cut")
    assert work(tmp_path, tasks) == ["b/c", "d"]
    assert work(tmp_path, tasks, made_by="other weights") == ALL
    (tmp_path / "out/.records/records/a.json").write_text("{")
    assert work(tmp_path, tasks, made_by="other weights") == ["a"]


def test_a_failure_is_recorded_and_tried_again_by_the_next_start_alone(tmp_path, tasks):
    with ledger(tmp_path) as first, ledger(tmp_path) as beside:
        for claim in first.claims(tasks):
            claim.fail("broken") if claim.task.name == "a" else finish(claim)
        assert first.failed == {"a": "broken"}
        assert list(beside.claims(tasks)) == []
        assert beside.failed == {"a": "broken"}, "one that ran at the same time lists it too"
    time.sleep(0.02)  # the clock of a file system is coarse
    assert work(tmp_path, tasks) == ["a"]


def test_what_another_one_is_at_comes_last_and_is_waited_for(tmp_path, tasks):
    with ledger(tmp_path) as other, ledger(tmp_path) as book:
        held = next(other.claims(tasks))
        claims = book.claims(tasks)
        names = []
        for _ in range(2):
            claim = next(claims)
            names.append(claim.task.name)
            finish(claim)
        assert names == ["b/c", "d"]
        threading.Timer(0.2, lambda: finish(held)).start()
        assert list(claims) == []
        assert "a" in book.found


def test_what_another_one_ends_before_it_is_claimed_is_not_done_again(tmp_path, tasks, monkeypatch):
    claim = Ledger._claim

    def late(self, task, *, wait):
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "_claim", claim)
            work(tmp_path, [task])
        return claim(self, task, wait=wait)

    monkeypatch.setattr(Ledger, "_claim", late)
    with ledger(tmp_path) as book:
        assert list(book.claims(tasks)) == []
        assert book.found == ALL


HOLDER = """
import sys
from pathlib import Path
from sct.runtime.ledger import Ledger, Task
book = Ledger(Path(sys.argv[1]), made_by="x").__enter__()
claim = next(book.claims([Task("a", (Path(sys.argv[2]),), Path(sys.argv[3]))]))
claim.place("half.txt").write_text("ha")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_its_task_to_others_and_nothing_in_the_output(tmp_path, tasks):
    task = tasks[0]
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out/.records"), str(task.files[0]), str(task.output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with ledger(tmp_path) as book:
            assert [claim.task.name for claim in take(book, tasks, 2)] == ["b/c", "d"]
        process.kill()
    assert not task.output.exists()
    assert work(tmp_path, tasks) == ALL
    assert not list((tmp_path / "out/.records/unfinished").iterdir())
    assert not list((tmp_path / "out/.records/locks").iterdir())


def take(book: Ledger, tasks: list[Task], number: int) -> list[Claim]:
    claims = book.claims(tasks)
    return [next(claims) for _ in range(number)]


def test_what_a_process_left_that_was_killed_after_its_last_step_is_removed(tmp_path, tasks):
    """The record and the output are there, and so is the file of the lock, which nobody holds."""
    work(tmp_path, tasks)
    left = tmp_path / "out/.records/locks" / hashed("b/c")
    left.touch()
    assert work(tmp_path, tasks) == []
    assert not left.exists()


def test_an_output_of_other_settings_is_never_taken_for_that_of_the_record(tmp_path, tasks, monkeypatch):
    """Killed between the record and the output, of one size both: the next start must see that nothing is done."""
    work(tmp_path, tasks)

    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.suffix == ".json":
            return replace(self, target)
        raise KeyboardInterrupt

    with ledger(tmp_path, "other") as book:
        claim = next(book.claims(tasks))
        place = claim.place("result.txt")
        place.write_text("DONE")
        replace = Path.replace
        monkeypatch.setattr(
            Path, "replace", lambda self, to: replace(self, to) if to.suffix == ".json" else killed(self, to)
        )
        with pytest.raises(KeyboardInterrupt):
            claim.finish(written=place)
        monkeypatch.undo()
    assert work(tmp_path, tasks, "other") == ALL


def test_a_file_system_without_locks_is_told_once(tmp_path, tasks, monkeypatch, caplog):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert work(tmp_path, tasks) == ALL
    assert caplog.text.count("different shards") == 1


def test_claims_are_let_go_at_the_end(tmp_path, tasks):
    with ledger(tmp_path) as book:
        take(book, tasks, 2)
        lock = tmp_path / "out/.records/locks" / hashed("a")
        assert lock.exists()
    assert not lock.exists()
    assert work(tmp_path, tasks) == ALL


def test_a_lock_that_was_taken_away_guards_nothing(tmp_path, tasks):
    """Many threads over few tasks, which remove lock files all the time: each task is done once."""
    many = [Task(f"t{i}", tasks[0].files, tmp_path / f"out/t{i}.txt") for i in range(30)]
    done: list[str] = []

    def run() -> None:
        with ledger(tmp_path) as book:
            for claim in book.claims(many):
                finish(claim)
                done.append(claim.task.name)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(task.name for task in many)
    assert os.listdir(tmp_path / "out/.records/locks") == []


def test_a_damaged_record_is_made_again(tmp_path, tasks):
    work(tmp_path, tasks[:1])
    path = ledger(tmp_path).path(tasks[0].name)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 37):
        path.write_bytes(flipped(whole, bit=bit))
        with ledger(tmp_path) as book:
            assert book.result(tasks[0]) in (None, "done"), f"bit {bit}"
