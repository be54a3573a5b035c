"""Names that a stranger chose: of cases, classes and runs. They lead out of no folder, and no terminal obeys them."""

import json
import logging
from pathlib import Path

import pytest
from hostile_files import change_config, put
from test_places import decathlon

from sct import eval as evaluation
from sct import predict, train
from sct.data.cases import Case
from sct.data.identity import check_ids
from sct.errors import UserError, visible
from sct.runtime.logs import LogFormatter

TERMINAL = "\x1b]0;title\x07\x1b[2J\x9b1m\rliver"
DEMO = ("+experiment=demo", "encoder=dense", "decoder=thin", "paths.outputs=out", "run_dir=out/run")
SMALL = ("data.roi_size=[16,16,16]", "data.spacing=[1,1,1]")


OUTSIDE = ["../x", "a/../../x", "/etc/x", "..", ".", "a//b", "..\\x", "C:\\x", "C:x", "//host/x"]
BROKEN = ["a\nb", "a\0", "\u202ex", TERMINAL]


@pytest.mark.parametrize("name", [*OUTSIDE, *BROKEN])
def test_the_name_of_a_case_is_a_place_below_a_folder(name):
    with pytest.raises(UserError, match="can't be the name of a case"):
        check_ids([Case(name, Path("image.nii.gz"), None)])


@pytest.mark.parametrize("name", ["a", "a/b", "a.b", "case 1", "\u00fc", "a\udcff", "x..y"])
def test_other_names_are_names_of_cases(name):
    check_ids([Case(name, Path("image.nii.gz"), None), Case(name, Path("image.nii.gz"), None, "rater")])


def nnunet(root: Path, *names: str) -> Path:
    """A data set whose dataset.json lists the cases of these names."""
    decathlon(root)
    entry = {"images": ["imagesTr/image.nii.gz"], "label": "imagesTr/label.nii.gz"}
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    described |= {"numTraining": len(names), "dataset": dict.fromkeys(names, entry)}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def test_a_list_of_cases_names_no_file_that_is_written(stage):
    names = [f"../../../case_{number}" for number in range(8)]
    root = nnunet(stage.here / "set", *names)
    arguments = (*DEMO, *SMALL, "data=nnunet", f"data.root={root}", "data.cache_dir=out/cache")
    stage.refused(train.main, *arguments, words=("can't be the name of a case",))


def test_a_terminal_obeys_no_name(stage, run, image):
    """Neither in messages, nor in logs, nor in the file of the log."""
    change_config(run, lambda config: put(config, "inferer._target_", f"torch.{TERMINAL}"))
    outcome = stage.run(predict.main, "ckpt=run", f"input={image}", "output=out")
    assert outcome.status == 1
    assert "\\x1b]0;title" in outcome.err
    assert_silent(outcome.err + outcome.out)


def test_the_name_of_a_class_stands_in_a_line(stage):
    root = decathlon(stage.here / "set")
    described = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**described, "labels": {"0": "background", "1": TERMINAL}}))
    arguments = (*DEMO, *SMALL, "data=msd", f"data.root={root}", "data.split=same", "data.cache_dir=out/cache")
    outcome = stage.run(train.main, *arguments)
    assert f"{root}/dataset.json: " in outcome.err
    assert "can't be the name of a class" in outcome.err
    assert_silent(outcome.err + outcome.out)


def test_the_name_of_a_run_is_shown(stage, run):
    change_config(run, lambda config: put(config, "name", f"{TERMINAL}\n# x"))
    outcome = stage.run(evaluation.main, "ckpt=run", "output=out", "figures=1")
    assert outcome.status == 0, outcome
    assert_silent(outcome.err + outcome.out)
    assert (stage.out / "table.md").read_text().count("\n# ") == 0


def test_a_line_of_a_log_is_visible():
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "%s\n\tb", (TERMINAL,), None)
    line = LogFormatter().format(record)
    assert_silent(line)
    assert line.endswith(r"\x1b]0;title\x07\x1b[2J\x9b1m\rliver" + "\n\tb")
    assert visible("caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{GREEK SMALL LETTER ALPHA}\n") == "caf\u00e9 \u03b1\n"


def assert_silent(text: str) -> None:
    assert visible(text) == text
