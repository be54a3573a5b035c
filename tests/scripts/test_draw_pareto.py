"""The figure of Dice against time: which networks are its front, and what it says of files that are no table."""

import json
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "draw_pareto.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def row(name: str, *, seconds: float | None, dice: float) -> dict:
    return {"what": name, "predict_seconds": seconds, "dice": dice, "dice_by_seed": [dice, dice + 0.01]}


def test_the_front_has_what_no_other_network_beats(script):
    rows = [row("slow", seconds=4, dice=0.9), row("worse", seconds=2, dice=0.7), row("fast", seconds=1, dice=0.8)]
    rows += [row("as good, slower", seconds=5, dice=0.9), row("as fast, worse", seconds=1, dice=0.6)]
    assert [found["what"] for found in script["front"](rows)] == ["fast", "slow"]


def test_each_task_has_a_panel(script, tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row("a", seconds=1, dice=0.8), row("b", seconds=2, dice=0.9), row("not timed", seconds=None, dice=0.9)]
    table = tmp_path / "table.json"
    content = {"a": {"what": "one", "rows": rows}, "b": {"what": "two", "rows": rows[:1]}}
    table.write_text(json.dumps({"tasks": content}))
    tasks = script["read_tasks"](table)
    assert {name: len(timed) for name, timed in tasks.items()} == {"one": 2, "two": 1}
    assert [axes.get_title(loc="left") for axes in script["draw"](tasks).axes] == ["one", "two"]
    script["main"]([str(table), "--output", str(tmp_path / "front")])
    assert (tmp_path / "front.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "lacks 'tasks'"),
        ('{"tasks": {"a": {"what": "one", "rows": []}}}', "without a timed network"),
        ("{", "table.json"),
    ],
)
def test_other_files_are_refused(script, tmp_path, content, message):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(SystemExit, match=message):
        script["main"]([str(path)])


def test_the_list_of_the_figure_names_settings_that_exist(monkeypatch):
    """Each contestant of scripts/accuracy/pareto.yaml composes with each task."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from accuracy.plan import Field, cells_of

    from sct.config.check import check_config
    from sct.config.command import compose_config

    field = Field.read(SCRIPT.parent / "accuracy" / "pareto.yaml")
    for task in field.tasks.values():
        for cell in cells_of(task, field.contestants.values(), seeds=[0]):
            check_config(compose_config("train", overrides=cell.overrides(data=Path("data"))))
