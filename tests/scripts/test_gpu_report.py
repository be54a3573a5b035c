"""The report of a GPU, shrunk on the processor: every section ends well, and a broken one spoils no other."""

import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sct.config.command import compose_config, open_overrides

SCRIPTS = Path(__file__).parents[2] / "scripts"
# forked, a section starts at once: the packages are imported here
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        import gpu_report

        yield gpu_report


@pytest.fixture
def report(script, tmp_path, monkeypatch):
    """Runs the sections given; returns the JSON and the Markdown that are left in the folder."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "argv", ["scripts/gpu_report.py", "--small"])
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS.parent), prepend=os.pathsep)

    def run(sections, *, minutes):
        options = script.parse(["--small", "--device", "cpu", "--output", str(tmp_path), "--minutes", str(minutes)])
        options.work = tmp_path / "work"
        script.report(options, sections=sections, sizes=script.SMALL, context=FORK)
        return json.loads((tmp_path / "gpu_report.json").read_text()), (tmp_path / "gpu_report.md").read_text()

    return run


def test_every_section_ends_well(script, report):
    record, text = report(script.SECTIONS, minutes=20)
    sections = record["sections"]
    assert {name: one["errors"] for name, one in sections.items()} == {name: {} for name in script.SECTIONS}
    found = {name: one["found"] for name, one in sections.items()}
    assert "cudnn" in found["environment"]
    assert found["tests"]["counts"] == {"passed": 5}
    assert list(found["parts"]) == ["16^3 x 1", "16^3 x 2"]
    assert set(found["parts"]["16^3 x 2"]["fast"]["ms"]) == {"total", "encoder", "completion", "decoder"}
    for one in found["training"].values():
        assert {key: len(seconds) for key, seconds in one["seconds"].items()} == {"True": 1, "False": 1}
        # a weight has two moments beside it
        assert one["held_mb"] > 0
    assert found["ct"]["fast"]["seconds"][0] > 0
    crops, taken = found["loader"]["crops_per_s"], found["loader"]["card"]["fast"]
    assert taken["workers"] - 1 < taken["crops_per_s"] / crops <= taken["workers"]
    formats = found["formats"]["fast, 16^3"]
    assert len(formats) == 6
    assert formats["fp32, True"]["difference"] == 0 < formats["bf16, False"]["difference"] < 0.1
    assert found["compile"]["eager, 16^3 x 1"]["difference"] < 1e-5
    for title in ("tests", "passed", "16^3", "dense_unetr", "deterministic", "workers needed", "cudnn.benchmark"):
        assert title in text
    assert "No table" not in text
    assert record["command"] == "python scripts/gpu_report.py --small", "what made it"


def test_what_a_gpu_would_be_given_is_valid(script):
    sizes = script.REAL
    for name, overrides in sizes.networks.items():
        roi = f"data.roi_size={[sizes.windows[-1]] * 3}"
        cfg = compose_config("train", overrides=[*overrides, roi, *sizes.training, *sizes.loader])
        assert cfg.trainer.precision == sizes.precision, name
    for contestant in sizes.rivals.values():
        compose_config("train", overrides=list(contestant.network))
        asked = open_overrides(["ckpt=RUN", "input=CT", "output=OUT", *contestant.predict], groups=["inferer"])
        assert compose_config("predict", overrides=asked).precision == "bf16"


def broken(job):
    job.note(half=1)
    with job.attempt("the easy part"):
        raise RuntimeError("no such kernel")
    job.note(other=2)
    raise ValueError("lost")


def crashing(job):
    job.note(before=1)
    os.kill(os.getpid(), signal.SIGKILL)


def endless(job):
    with job.attempt("the long part"):
        job.note(before=1)
        time.sleep(3600)


def test_what_fails_leaves_its_error_and_what_it_had(script, report):
    shape = replace(script.SECTIONS["environment"], share=1)
    sections = {"broken": replace(shape, run=broken), "crashing": replace(shape, run=crashing)}
    sections |= {"endless": replace(shape, run=endless, share=0.02), "last": shape}
    record, text = report(sections, minutes=5)
    found = record["sections"]
    assert [one["outcome"] for one in found.values()] == ["failed", "failed", "failed", "passed"]
    assert found["broken"]["found"] == {"half": 1, "other": 2}
    assert "no such kernel" in found["broken"]["errors"]["the easy part"]
    assert "ValueError: lost" in found["broken"]["errors"]["the section"]
    assert found["crashing"]["found"] == found["endless"]["found"] == {"before": 1}
    assert list(found["crashing"]["errors"]) == ["the process, at its beginning"]
    assert list(found["endless"]["errors"]) == ["time, at the long part"]
    assert "no such kernel" in text
    assert "cudnn" in text.partition("## ")[2], "the table of the last"


def test_tests_that_fail_or_never_end_are_named(script, tmp_path):
    log = tmp_path / "tests.log"
    log.write_text(
        "tests/gpu/test_a.py::test_one[cuda 1] PASSED   [ 25%]\n"
        "tests/gpu/test_a.py::test_two FAILED  [ 50%]\n"
        "tests/gpu/test_a.py::test_three SKIPPED (no bf16 here) [ 75%]\n"
        "tests/gpu/test_b.py::test_four "
    )
    found = script.checks.read_log(log)
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert found["failed"] == ["tests/gpu/test_a.py::test_two"]
    assert found["unfinished"] == ["tests/gpu/test_b.py::test_four"]
    table = script.checks.table(found)
    assert "| tests/gpu/test_b.py::test_four | did not end |" in table


def test_a_table_that_cant_be_made_spoils_no_report(script):
    text = script.table_of(script.SECTIONS["ct"], {"fast": {"seconds": []}})
    assert text.startswith("No table (StatisticsError")
