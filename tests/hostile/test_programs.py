"""Texts of a stranger in files that are programs: a bundle of MONAI, a planned config, a table for LaTeX or a sheet."""

import csv
import json
import re

import pytest
from hostile_files import change_config, put
from matplotlib.text import Text
from monai.bundle import ConfigParser
from omegaconf import OmegaConf

from sct import export
from sct.errors import UserError
from sct.evaluation.markup import plain_markdown
from sct.evaluation.metrics import Row
from sct.evaluation.scores import read_cases_csv, write_report
from sct.exporting.bundle import INFERENCE, METADATA, as_it_is, monai_node
from sct.plots import style
from sct.reports.tables import Cell, comma_separated, latex, markdown
from sct.tasks.report import read_papers

# --- a bundle


def texts_of_programs(stage) -> list[str]:
    (stage.here / "secret.json").write_text('{"key": "value"}')
    code = stage.touch()
    return [
        f"${code}",
        f"$import os; {code}",
        f"%{stage.here}/secret.json#key",
        "@network",
        "@###x",
        "50 % of #1",
        "$'",
        "$\\",
        "a'$b",
        "\N{GREEK SMALL LETTER ALPHA}$\n",
    ]


def test_a_text_of_a_run_is_a_text_in_its_bundle(stage):
    texts = texts_of_programs(stage)
    node = OmegaConf.create({"_target_": "builtins.dict", "names": texts, "of": {"inner": {"name": texts[0]}}})
    parser = ConfigParser({"network": "a secret", "x": json.loads(json.dumps(monai_node(node)))})
    assert parser.get_parsed_content("x") == {"names": texts, "of": {"inner": {"name": texts[0]}}}
    assert not stage.mark.exists()
    assert as_it_is({"a": ["liver", 1, None]}) == {"a": ["liver", 1, None]}


def test_a_bundle_of_a_run_runs_nothing_that_the_run_names(stage, run):
    name = f"${stage.touch()}"
    change_config(run, lambda config: put(config, "name", name))
    change_config(run, lambda config: put(config, "data.class_groups", {"$x": ["liver"]}))
    outcome = stage.run(export.main, "ckpt=run", "format=bundle", "output=out/x", "windows=1", "agreement=0")
    assert outcome.status == 0, outcome
    parser = ConfigParser()
    parser.read_config(str(stage.out / "x" / INFERENCE))
    parser.read_meta(str(stage.out / "x" / METADATA))
    parser["bundle_root"] = str(stage.out / "x")
    parser.get_parsed_content("data")
    assert parser.get_parsed_content("_meta_")["name"] == name
    assert not stage.mark.exists()


# --- tables

CODE = r"\input{/etc/passwd} \write18{touch mark} ^^5cinput $x$ {a}~b # % & _"


def test_a_name_is_no_command_of_latex():
    (line,) = [line for line in latex([{"setting": CODE + "\n\\end"}]).splitlines() if "passwd" in line]
    harmless = re.sub(r"\\text(backslash|asciitilde|asciicircum)\{\}|\\[%&_#${}]", "", line.removesuffix(r" \\"))
    assert not set(r"\{}~^%&_#$") & set(harmless), line


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "'=1", "liver", "a-b"])
def test_a_name_is_no_formula_of_a_spreadsheet(name, stage):
    (_, cells) = csv.reader(comma_separated([{"setting": name, name: Cell(-0.5)}]).splitlines())
    assert cells[0][0] not in "=+-@\t\r"
    assert cells[1] == "-0.5"
    row = Row(case_id=name, class_name=name, dice=0.5, missed=False, false_positive=False)
    write_report(stage.out, [row], title="x")
    written = next(csv.DictReader((stage.out / "cases.csv").open()))
    assert not {written["case_id"][0], written["class"][0]} & set("=+-@\t\r")
    (read,) = read_cases_csv(stage.out / "cases.csv")
    assert (read.case_id, read.class_name) == (name, name)


def test_a_name_is_no_markup():
    names = ["a | b", "![x](http://host/x.png)", "<img src=http://host/x>", "line\nline"]
    text = markdown([{"setting": name} for name in names])
    assert len(text.splitlines()) == 2 + len(names)
    assert not re.search(r"(?<!\\)<img|\]\(|a \| b", text)
    assert plain_markdown("p < 0.001, [1, 2] (x)") == "p < 0.001, [1, 2] (x)"


@pytest.mark.parametrize(
    "papers", ["a: {Dice: '${oc.env:SCT_SECRET}'}", "a: {Dice: text}", "a: &a {x: 1}\nb: *a", "[1]"]
)
def test_figures_of_papers_are_numbers(papers, stage):
    (stage.here / "papers.yaml").write_text(papers)
    with pytest.raises(UserError, match=r"papers\.yaml"):
        read_papers(stage.here / "papers.yaml")


# --- figures

FORMULAS = ["$\\unknown$", "$x", "a $b$ c", r"\$", "$\\frac{1}{2}$"]


@style.styled
def figure_of(name: str):
    figure = style.new_figure(2.0)
    axes = figure.subplots()
    axes.plot([1, 100], [1, 2], label=name)
    axes.set_xscale("log")
    axes.set_title(name)
    axes.set_yticks([1, 2], [name, name])
    axes.set_ylabel(name)
    figure.legend(title=name)
    style.caption(figure, name)
    return figure


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_is_no_formula_of_a_figure(name, stage):
    figure = figure_of(name)
    style.save(figure, stage.out / "figure")
    shown = [text for text in figure.findobj(Text) if text.get_text() == name]
    assert len(shown) >= 7
    assert not any(text.get_parse_math() for text in shown)
    powers = [text for text in figure.findobj(Text) if "10^" in text.get_text()]
    assert powers
    assert all(text.get_parse_math() for text in powers)
