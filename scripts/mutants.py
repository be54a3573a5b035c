"""Deliberate faults: changes one line of the program at a time and runs the tests that must notice.

    python scripts/mutants.py                      # all; about 10 s each
    python scripts/mutants.py --list losses --only focal
    python scripts/mutants.py --output mutants.md  # also write the table

The faults are in scripts/mutants/*.txt: a line `FILE | TESTS`, the old text in lines with a minus sign, the new text in
lines with a plus sign, and where no test can notice the fault a line `? REASON`. A fault that no test notices has
survived: a test is missing, or the change has no effect. The working tree is not changed: a copy of it is.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = (
    "sct",
    "tests",
    "configs",
    "docs",
    "scripts",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)
# packages that every test needs: loaded once, so that a mutant costs its tests alone
LOADED = (
    "torch",
    "monai.losses.dice",
    "monai.networks.nets",
    "hydra",
    "omegaconf",
    "pytest",
    "scipy.ndimage",
    "nibabel",
)
LIMIT_S = 300
OUTCOMES = {0: "survived", 1: "killed", -1: "killed (no end)"}
LISTS = sorted(path.stem for path in (ROOT / "scripts/mutants").glob("*.txt"))


class Mutant(NamedTuple):
    """A change of one place: `old` occurs once in `file`; `tests` must fail with `new`. why: why it may survive."""

    file: str
    old: str
    new: str
    tests: str
    why: str = ""


def load(names: Iterable[str], *, only: str) -> list[Mutant]:
    """The mutants of some lists that have a text in their file, their old or their new text."""
    found = [mutant for name in names for mutant in parse((ROOT / f"scripts/mutants/{name}.txt").read_text())]
    return [mutant for mutant in found if only in f"{mutant.file} {mutant.old} {mutant.new}"]


def parse(text: str) -> Iterator[Mutant]:
    """The mutants of a list: blocks of lines with an empty line between them; lines with # are comments."""
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        file, _, tests = lines[0].partition(" | ")
        old, new, why = ("\n".join(line[2:] for line in lines[1:] if line[0] == sign) for sign in "-+?")
        yield Mutant(file, old, new, tests, why)


def check(mutants: Iterable[Mutant]) -> None:
    """Ends the script where a mutant does not fit the program any more."""
    for mutant in mutants:
        count = (ROOT / mutant.file).read_text().count(mutant.old)
        if count != 1:
            sys.exit(f"{mutant.file}: {mutant.old!r} occurs {count} times, it must occur once. Correct the list.")


def copy_tree(folder: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)


def outcome(mutant: Mutant, *, folder: Path, log: Path) -> str:
    """Runs the tests of a mutant in a process of their own, in the copy `folder`."""
    file = folder / mutant.file
    original = file.read_text()
    file.write_text(original.replace(mutant.old, mutant.new) if mutant.old else original)
    try:
        child = os.fork()
        if not child:
            run_tests(mutant.tests.split(), folder=folder, log=log)
        status = wait(child)
    finally:
        file.write_text(original)
    return OUTCOMES.get(status, f"broken (status {status}, see {log})")


def check_tests(mutants: Iterable[Mutant], *, folder: Path, log: Path) -> None:
    """Ends the script where tests fail without any fault: they would kill every mutant."""
    for tests in dict.fromkeys(mutant.tests for mutant in mutants):
        said = outcome(Mutant("pyproject.toml", "", "", tests), folder=folder, log=log)
        if said != "survived":
            sys.exit(f"{tests}: {said} without a fault.\n{log.read_text()[-3000:]}")


def run_tests(tests: Sequence[str], *, folder: Path, log: Path) -> None:
    """In the child: the tests of the copy, with its own package; ends the process."""
    import pytest

    os.setsid()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 3
    try:
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(child: int) -> int:
    """Exit status of the child; -1 where it does not end in time: its process group is then ended."""
    began = time.monotonic()
    while time.monotonic() - began < LIMIT_S:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def table(results: Sequence[tuple[Mutant, str]]) -> str:
    """Numbers, and a line for every mutant that was not killed."""
    killed = sum(said.startswith("killed") for _, said in results)
    lines = [f"{killed} of {len(results)} mutants are killed.", ""]
    rest = [(mutant, said) for mutant, said in results if not said.startswith("killed")]
    if rest:
        lines += ["| file | old | new | outcome | why |", "|---|---|---|---|---|"]
    for mutant, said in rest:
        cells = (mutant.file, mutant.old.strip(), mutant.new.strip(), said, mutant.why or "a test is missing")
        lines.append("| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", choices=LISTS, action="append", help="lists to run; all by default")
    parser.add_argument("--only", default="", help="mutants that have this text in their file, old or new text")
    parser.add_argument("--trust-tests", action="store_true", help="do not run them without a fault first")
    parser.add_argument("--output", type=Path, help="file of the table")
    arguments = parser.parse_args()
    mutants = load(arguments.list or LISTS, only=arguments.only)
    check(mutants)
    for name in LOADED:
        import_module(name)
    results = []
    with tempfile.TemporaryDirectory() as place:
        folder, log = Path(place) / "copy", Path(place) / "log.txt"
        folder.mkdir()
        copy_tree(folder)
        if not arguments.trust_tests:
            check_tests(mutants, folder=folder, log=log)
        for number, mutant in enumerate(mutants, start=1):
            began = time.monotonic()
            said = outcome(mutant, folder=folder, log=log)
            results.append((mutant, said))
            took = time.monotonic() - began
            change = f"{mutant.old.strip()!r} -> {mutant.new.strip()!r}"
            print(f"{number}/{len(mutants)}  {said:9}  {took:4.0f} s  {mutant.file}  {change}", flush=True)
            if said.startswith("broken"):
                print(log.read_text()[-2000:])
    text = table(results)
    print(text)
    if arguments.output:
        arguments.output.write_text(text)
    if any(not said.startswith("killed") and not mutant.why for mutant, said in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
