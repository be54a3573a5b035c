"""Runs all tests and measurements that need a GPU, in one command and under nine minutes.

    python scripts/gpu_report.py                              # writes outputs/gpu_report/gpu_report.md and .json
    python scripts/gpu_report.py --output docs --minutes 9    # to commit
    python scripts/gpu_report.py --small --device cpu         # tiny networks: only checks that the report works
    python scripts/gpu_report.py --sections tests parts

The report needs no data, no internet and no installation: PYTHONPATH=. in a checkout is enough. Each section has its
own process and a share of the time. If a section fails, crashes or exceeds its time, the report has its error and its
results until then, and the other sections still run. Both files are written again after each section. The exit status
is 1 if anything failed. The logs of the sections are in --work.
"""

import argparse
import json
import multiprocessing
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from gpu_sections import checks, environment, steps, volume, windows
from gpu_sections.job import LAST_CHARACTERS, REAL, SMALL, Job, Sizes, markdown

from sct.runtime.files import write_text

# last lines of a section's error in the Markdown; the JSON has all lines
LAST_LINES = 12


@dataclass(frozen=True)
class Section:
    """run: measures; table: results as Markdown; share: of the time, relative to the shares of the other sections."""

    title: str
    run: Callable[[Job], None]
    table: Callable[[dict[str, Any]], str]
    share: float


# the most important first: if time is short, the last ones get less of it
SECTIONS = {
    "environment": Section("Environment", environment.run, environment.table, 6),
    "tests": Section("Tests marked gpu", checks.run, checks.table, 30),
    "parts": Section("Windows, by parts", windows.parts, windows.parts_table, 20),
    "training": Section("A training step", steps.training, steps.training_table, 14),
    "ct": Section("A whole CT, file to file", volume.run, volume.table, 22),
    "loader": Section("The loader", steps.loader, steps.loader_table, 8),
    "formats": Section("Number formats of a window", windows.formats, windows.formats_table, 6),
    "compile": Section("torch.compile of the fast model", windows.compiled, windows.compiled_table, 16),
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for all sections together")
    parser.add_argument("--device", default="cuda", help="auto, cpu or cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks and volumes")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_report"), help="folder of the report")
    parser.add_argument("--work", type=Path, help="folder for logs and networks (default: outputs/gpu_report_work)")
    return parser.parse_args(argv)


def work(section: Section, job: Job, log: Path) -> None:
    """Runs a section in its own process, the leader of a process group: all processes that it starts end with it."""
    os.setsid()
    with log.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        if job.device_name == "cpu":
            torch.set_num_threads(1)  # after a fork, the other threads of the parent process do not exist
        try:
            section.run(job)
        except (Exception, SystemExit):
            job.errors["the section"] = traceback.format_exc()[-LAST_CHARACTERS:]
        job.save()


def outcome_of(process: Any, *, seconds: float, log: Path) -> dict[str, str]:
    """Waits for a section and ends it when its time is over; returns errors of the process by name."""
    process.join(seconds)
    if process.is_alive():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        return {"time": f"not done after {seconds:.0f} s"}
    if process.exitcode:
        # the status is negative if a signal ended the process
        return {"the process": f"ended with status {process.exitcode}\n{log.read_text()[-LAST_CHARACTERS:]}"}
    return {}


def run_section(
    name: str,
    section: Section,
    *,
    options: argparse.Namespace,
    sizes: Sizes,
    seconds: float,
    earlier: dict[str, dict[str, Any]],
    context: BaseContext,
) -> dict[str, Any]:
    """Runs a section; returns its results and errors and raises none."""
    folder = options.work / name
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "notes.json", folder / "log.txt"
    file.unlink(missing_ok=True)
    job = Job(
        file=file, folder=folder, device_name=options.device, sizes=sizes, seconds=seconds, earlier=earlier
    )  # fmt: skip
    start = time.perf_counter()
    process = context.Process(target=work, args=(section, job, log))
    process.start()
    errors = outcome_of(process, seconds=seconds, log=log)
    took = time.perf_counter() - start
    notes = json.loads(file.read_text()) if file.exists() else {"found": {}, "errors": {}, "doing": "its beginning"}
    if errors:
        errors = {f"{key}, at {notes['doing']}": text for key, text in errors.items()}
    errors = {**notes["errors"], **errors}
    outcome = "failed" if errors else "passed"
    return {"outcome": outcome, "seconds": took, "at_most_s": seconds, "found": notes["found"], "errors": errors}


def report(
    options: argparse.Namespace, *, sections: Mapping[str, Section], sizes: Sizes, context: BaseContext
) -> dict[str, Any]:
    """Runs the sections one after another; both files are complete after each section."""
    done: dict[str, Any] = {"command": command_line(), "minutes": options.minutes, "sections": {}}
    end = time.monotonic() + 60 * options.minutes
    remaining = dict(sections)
    for name, section in sections.items():
        seconds = max(0.0, end - time.monotonic()) * section.share / sum(other.share for other in remaining.values())
        del remaining[name]
        print(f"{section.title}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
        earlier = {other: one["found"] for other, one in done["sections"].items()}
        result = run_section(
            name, section, options=options, sizes=sizes, seconds=seconds, earlier=earlier, context=context
        )
        done["sections"][name] = result
        print(f"  {result['outcome']} after {result['seconds']:.0f} s", file=sys.stderr, flush=True)
        write_text(options.output / "gpu_report.json", json.dumps(done, indent=1) + "\n")
        write_text(options.output / "gpu_report.md", text_of(done, sections=sections))
    return done


def command_line() -> str:
    return shlex.join(["python", *sys.argv])


def text_of(done: Mapping[str, Any], *, sections: Mapping[str, Section]) -> str:
    """The report in Markdown: the outcome of all sections, then the results of each section."""
    results = done["sections"]
    rows = [
        [sections[name].title, one["outcome"], f"{one['seconds']:.0f}", f"{one['at_most_s']:.0f}", len(one["errors"])]
        for name, one in results.items()
    ]
    text = f"# GPU report\n\nMade with `{done['command']}`.\n\n"
    text += markdown(["section", "outcome", "seconds", "at most s", "errors"], rows)
    device = results.get("environment", {}).get("found", {}).get("device", "unknown device")
    for name, one in results.items():
        text += f"\n## {sections[name].title} ({device})\n"
        if one["found"]:
            text += "\n" + table_of(sections[name], one["found"])
        for key, error in one["errors"].items():
            text += f"\n{key}:\n\n```\n" + "\n".join(error.splitlines()[-LAST_LINES:]) + "\n```\n"
    return text


def table_of(section: Section, found: dict[str, Any]) -> str:
    """A section's table; if incomplete results make no table, a line that names the file with the numbers."""
    try:
        return section.table(found)
    except (LookupError, TypeError, ValueError) as error:
        return f"No table ({type(error).__name__}: {error}); gpu_report.json has the numbers.\n"


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    options.work = options.work or Path("outputs/gpu_report_work")
    # spawn: a fresh interpreter for each section, which has not used the GPU before
    done = report(
        options,
        sections={name: SECTIONS[name] for name in options.sections},
        sizes=SMALL if options.small else REAL,
        context=multiprocessing.get_context("spawn"),
    )
    print(f"{options.output}/gpu_report.md")
    if any(one["errors"] for one in done["sections"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
