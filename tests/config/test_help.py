"""`--help` of every command, and the reference page: every key has a meaning, written once, in a docstring."""

import runpy
from importlib import import_module
from pathlib import Path

import pytest
from commands import assert_one_message, run_command

from sct import train
from sct.config.check import GROUPS
from sct.config.command import compose_config
from sct.config.folders import options
from sct.config.help import Page, entry, help_text
from sct.config.meanings import description, keys_of, meanings
from sct.config.saved import APPENDED
from sct.config.source import entries
from sct.data import __main__ as data

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/write_reference.py"
COMMANDS = ("eval", "predict", "export", "report", "verify")


@pytest.fixture(scope="module")
def page() -> str:
    """The reference page as it would be written now."""
    return runpy.run_path(str(SCRIPT))["page"]()


def test_every_key_of_every_command_and_group_has_a_meaning(page):
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row for row in rows if not row.split(" | ")[-1].strip(" |")] == []
    keys = {row.split("`")[1] for row in rows}
    assert {"seed", "trainer.max_steps", "retrain", "data.num_train", "encoder.reducer.fcn.hidden"} <= keys
    assert len(keys) > 250


def test_the_reference_page_is_what_the_script_writes(page):
    assert (ROOT / "docs/reference/config.md").read_text() == page, "run: python scripts/write_reference.py"


@pytest.mark.parametrize("group", [*GROUPS, *APPENDED])
def test_every_config_file_says_what_it_is(group):
    assert [name for name in options(group) if not description(group, name).endswith(".")] == []


def test_keys_are_read_from_a_docstring_up_to_the_next_key_or_an_empty_line():
    text = "Purpose: none.\n\nwidth: channels,\n    or null\ndepth: blocks: from 1\nother: no key\n\nwidth is prose"
    found = entries(text, known={"width", "depth"})
    assert found == {"width": "channels, or null", "depth": "blocks: from 1 other: no key"}


def test_a_class_says_it_before_its_base_does():
    found = meanings("sct.data.phantoms.isic.PhantomISIC")
    assert found["num_train"] == ("cases to train on", "PhantomISIC")
    assert found["root"] == ("folder of the data set", "SegmentationData")
    assert meanings("monai.networks.nets.UNet") == {}


def test_values_are_those_of_the_choices():
    outcome = run_command(train.main, "encoder=dtop", "encoder.reducer.p0=0.75", "--help")
    assert outcome.status == 0
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    for line in (
        "encoder.reducer.p0=0.75 confidence from which tokens exit; 1: no token exits",
        "encoder.reducer.head=atm kind of the head after each pruning block: atm or fcn",
        "data.root=${paths.data}/phantom folder of the data set",
        "optimizer.betas=[0.9, 0.95] AdamW's decay of the means of gradients and of their squares",
        "data.intensity.a_min=-200.0 start of the range in the file, such as Hounsfield units",
    ):
        assert line in lines
    assert "demo " + description("experiment", "demo")[:80] in outcome.out.replace(
        "demo                      ", "demo "
    )
    assert "profile." not in outcome.out.split("Keys:")[1].split("Examples")[0].replace("sct.profile", "")
    assert max(map(len, outcome.out.splitlines())) <= 120
    assert_one_message(run_command(train.main, "encoder=dtopp", "--help"), "Did you mean 'dtop'?")


@pytest.mark.parametrize("command", [*COMMANDS, "profile"])
def test_a_command_lists_its_keys(command):
    module = import_module(f"sct.{command}")
    told = run_command(module.main, "--help")
    assert told.status == 0
    assert told.out.startswith(f"`python -m sct.{command}")
    own = [k for k in keys_of(compose_config(command, overrides=[])) if command != "profile" or "profile" in k.name]
    for key in own:
        assert f"\n  {key.name}" in told.out


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["check", "--help"], ["describe", "data=isic", "--help"]])
def test_the_data_command_has_a_page(arguments):
    told = run_command(data.main, *arguments)
    assert told.status == 0
    assert told.out.startswith("`python -m sct.data check|describe|plan")
    assert ("data.num_train" in told.out) == ("data=isic" not in arguments)
    assert "encoder" not in told.out


def test_a_key_that_is_not_listed_is_left_out():
    cfg = compose_config("train", overrides=[])
    text = help_text(Page("About.", keys=("trainer.device", "paths")), cfg)
    assert [line.split()[0] for line in text.splitlines()[3:] if line[:3].strip()] == [
        "trainer.device=auto", "paths", "paths.data=data", "paths.outputs=outputs", "paths.cache=${paths.outputs}/cache"
    ]  # fmt: skip


def test_a_long_entry_puts_its_meaning_below():
    assert list(entry("  long.key=1", "what it means", at=8)) == ["  long.key=1", "        what it means"]
