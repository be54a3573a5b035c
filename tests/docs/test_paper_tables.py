"""The list of the papers' tables and figures: all of them are there, and every command composes.

What a command names is checked too: a run that a command needs has a command of its own, weights fit where a training
starts from them, and what is changed after training can be.
"""

import re
import runpy
import shlex
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from doc_pages import PAPER_TABLES, ROOT
from omegaconf import DictConfig, OmegaConf
from shrunk import jobs

from sct.compare.__main__ import parse as parse_compare
from sct.config.check import check_config, to_dict
from sct.config.command import compose_config, open_overrides
from sct.config.trust import Trust
from sct.runs.changes import changed_settings

SCRIPT = runpy.run_path(str(ROOT / "scripts/paper_tables.py"))
PAPERS = SCRIPT["read"]()
TEXTS = Path(__file__).parents[3] / "shared/papers"
# tables and figures as the papers count them: names of their files, and how a caption begins there
COUNTS = {
    "STP and MTA": (9, 3, "stp_mta.txt"),
    "AS-ViT": (10, 7, "as_vit.txt"),
    "DToP": (7, 5, "dtop.txt"),
    "APFormer": (4, 8, "apformer.txt"),
}
NAMED = re.compile(r"\b(table|fig(?:ure|\.)?)\s*([IVX]+|\d+)\b", re.IGNORECASE)


def rows() -> list[Any]:
    found = [
        pytest.param(paper, row.command, id=f"{paper.paper}, {entry.number}, {row.what}"[:90])
        for paper in PAPERS
        for entry in paper.entries
        for row in entry.rows
        if row.command
    ]
    trained = [
        pytest.param(paper, command, id=f"{paper.paper}, run {name}")
        for paper in PAPERS
        for name, command in paper.runs.items()
    ]
    return [*found, *trained]


def words_of(command: str) -> tuple[str, list[str]]:
    """The name of a command of sct, and the words behind it."""
    first, *rest = shlex.split(command)
    if first == "python":
        assert rest[0] == "-m"
        return rest[1].removeprefix("sct."), rest[2:]
    return first.removeprefix("sct-"), rest


def composed(arguments: list[str]) -> DictConfig:
    cfg = compose_config("train", overrides=arguments)
    OmegaConf.to_object(cfg)  # the schema refuses what does not go together
    check_config(cfg)
    return cfg


def config_of_run(name: str, *, paper: Any) -> DictConfig | None:
    """The config of a run of the list; None for RUN, which stands for one of several."""
    if name == "RUN":
        return None
    return trained_by(paper.runs[name])


@cache
def trained_by(command: str) -> DictConfig:
    program, arguments = words_of(command)
    assert program == "train"
    assert "-m" not in arguments, f"{command} is one run"
    return composed(arguments)


def check_start(cfg: DictConfig, *, paper: Any) -> None:
    """A training that starts from a run of the list has weights of the same sizes, and DToP's the heads it needs."""
    before = config_of_run(cfg.init, paper=paper) if cfg.init is not None else None
    if before is None:
        return
    for key in ("encoder.dim", "encoder.depth", "encoder.num_heads", "encoder.patch_size", "data.roi_size"):
        assert OmegaConf.select(cfg, key) == OmegaConf.select(before, key), f"init={cfg.init}: {key}"
    reducer = cfg.encoder.reducer
    if reducer is not None and reducer.get("mode") == "finetune":
        assert before.encoder.reducer.mode == "direct"
        assert reducer.head == before.encoder.reducer.head
        assert cfg.decoder._target_ == before.decoder._target_


def check_training(arguments: list[str], *, paper: Any) -> None:
    seen: list[Any] = []
    for job in jobs(arguments):
        cfg = composed(job)
        assert to_dict(cfg) not in seen, f"{job} repeats another job"
        seen.append(to_dict(cfg))
        check_start(cfg, paper=paper)


def check_of_run(program: str, arguments: list[str], *, paper: Any) -> None:
    """An evaluation or a profile of a trained run: its settings, and those that are changed after training."""
    for job in jobs(arguments):
        cfg = compose_config(program, overrides=open_overrides(job, groups=("data", "inferer", "encoder")))
        before = config_of_run(cfg.ckpt, paper=paper)
        asked: dict[str, Any] = {}
        for word in job:
            if word.startswith("encoder.reducer."):
                key, _, _ = word.partition("=")
                asked[key.removeprefix("encoder.reducer.")] = OmegaConf.select(cfg, key)
        if asked and before is not None:
            changed_settings(before, {"reducer": asked}, trust=Trust())


def check_figure(arguments: list[str], *, paper: Any) -> None:
    options = import_module(f"sct.plots.commands.{arguments[0]}").parser().parse_args(arguments[1:])
    named = [options.run] if getattr(options, "run", None) else [run for _, run in options.runs]
    for name in named:
        config_of_run(name, paper=paper)


@pytest.mark.parametrize(("paper", "command"), rows())
def test_a_command_composes(paper: Any, command: str) -> None:
    program, arguments = words_of(command)
    if program in ("eval", "profile") and any(word.startswith("ckpt=") for word in arguments):
        check_of_run(program, arguments, paper=paper)
    elif program in ("train", "profile"):
        check_training(arguments, paper=paper)
    elif program == "report":
        compose_config("report", overrides=arguments)
    elif program == "plot":
        check_figure(arguments, paper=paper)
    elif program == "compare":
        composed(parse_compare(arguments)[1])
    else:
        pytest.fail(f"no rule for {command}")


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.paper)
def test_every_table_and_figure_of_a_paper_is_listed(paper: Any) -> None:
    tables, figures, _ = COUNTS[paper.paper]
    assert (paper.tables, paper.figures) == (tables, figures)
    assert len({entry.number for entry in paper.entries}) == tables + figures
    assert SCRIPT["mistakes"](paper) == []


@pytest.mark.skipif(not TEXTS.is_dir(), reason="needs the texts of the papers")
@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.paper)
def test_the_text_of_a_paper_names_no_other_table_or_figure(paper: Any) -> None:
    # in DToP's text a footnote's mark stands behind a number: "Figure 32" is figure 3
    text = (TEXTS / COUNTS[paper.paper][2]).read_text().replace("Figure 32.", "Figure 3.")
    kinds = {"t": "table", "f": "figure"}
    named = {f"{kinds[kind[0].lower()]} {number}" for kind, number in NAMED.findall(text)}
    assert named - set(paper.expected) == set()
    assert len(named) >= 0.8 * len(paper.expected)


def test_a_list_with_holes_is_noticed() -> None:
    paper = next(paper for paper in PAPERS if paper.paper == "DToP")
    first, second, *rest = paper.entries
    told = "\n".join(SCRIPT["mistakes"](replace(paper, entries=[first, first, *rest])))
    assert "table 2 is missing" in told
    assert "table 1 is listed twice" in told
    row = replace(first.rows[0], command="python -m sct.eval ckpt=NOWHERE", ours="")
    told = "\n".join(SCRIPT["mistakes"](replace(paper, entries=[replace(first, rows=[row]), second, *rest])))
    assert "the run NOWHERE is not in runs" in told
    assert "say what was measured here" in told
    both = replace(first, why_not="no reason")
    assert "table 1 must have either rows or why_not" in "\n".join(
        SCRIPT["mistakes"](replace(paper, entries=[both, second, *rest]))
    )


def test_the_page_is_what_the_script_writes() -> None:
    assert PAPER_TABLES.read_text() == SCRIPT["page"](PAPERS), "run: python scripts/paper_tables.py --write"
