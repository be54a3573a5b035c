"""Runs the tests marked `gpu` with pytest in a separate process."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from gpu_sections.job import LAST_CHARACTERS, ROOT, Job, markdown

# lines of pytest -v: a test that has ended, and a test that has started (only its name, if it never ends)
ENDED = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b", re.MULTILINE)
STARTED = re.compile(r"^(tests/\S+::\S+)", re.MULTILINE)
# seconds of the section's time that are reserved for reading the log
RESERVE = 3.0


def run(job: Job) -> None:
    log = job.folder / "tests.log"
    # a compiler may hang and end the section: its tests come last
    tests = job.sizes.tests or sorted(map(str, ROOT.glob("tests/gpu/test_*.py")), key=compiler_last)
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-m", "gpu", "-v", "-rfE", "--tb=short"]
    command += ["-p", "no:cacheprovider", *tests]
    environment = {**os.environ, **job.sizes.test_settings, "PYTHONUNBUFFERED": "1"}
    status: int | None = None
    with job.attempt("pytest"), log.open("w") as file:
        try:
            status = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
                timeout=max(1.0, job.seconds - RESERVE), check=False,
            ).returncode  # fmt: skip
        finally:
            job.note(**read_log(log))
        # status 1: tests failed; they are reported one by one
        if status not in (0, 1):
            raise RuntimeError(f"pytest ended with status {status}:\n{log.read_text()[-LAST_CHARACTERS:]}")
    if job.found.get("failures"):
        job.errors["failed tests"] = job.found["failures"]
        job.save()


def compiler_last(file: str) -> tuple[bool, str]:
    return "compile" in file, file


def read_log(log: Path) -> dict[str, Any]:
    """Counts and names of the tests that pytest ran, also if it was stopped early."""
    text = log.read_text()
    outcomes = dict(ENDED.findall(text))
    failed = [test for test, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")]
    _, _, failures = text.partition("= FAILURES =")
    _, _, errors = text.partition("= ERRORS =")
    unfinished = [test for test in STARTED.findall(text.partition("= FAILURES =")[0]) if test not in outcomes]
    return {
        "counts": dict(Counter(outcome.lower() for outcome in outcomes.values())),
        "failed": failed,
        "unfinished": unfinished[-1:],
        "failures": (failures or errors)[-3 * LAST_CHARACTERS :],
    }


def table(found: dict[str, Any]) -> str:
    text = markdown(["outcome", "tests"], list(found["counts"].items()))
    named = [(test, "failed") for test in found["failed"]] + [(test, "did not end") for test in found["unfinished"]]
    return text + ("\n" + markdown(["test", "outcome"], named) if named else "")
