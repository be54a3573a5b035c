"""Links in a run folder of a stranger: no command writes, lengthens or removes a file where they lead."""

import shutil

import pytest
from commands import assert_one_message

from sct import eval as evaluation
from sct import export, predict, profile, train
from sct.errors import UserError
from sct.plots.__main__ import main as plot
from sct.runs.links import check_links

COMMANDS = {
    "resume": (train.main, ["resume=run", "trainer.max_steps=5"]),
    "eval": (evaluation.main, ["ckpt=run", "figures=0"]),
    "choose": (evaluation.main, ["ckpt=run", "output=out", "postprocess=choose"]),
    "export": (export.main, ["ckpt=run", "format=torch", "windows=1", "agreement=0"]),
    "profile": (profile.main, ["ckpt=run", "profile.latency=false"]),
}
LINKS = ("train.log", "metrics.jsonl", ".lock", "eval", "export", "checkpoints", "tensorboard", "profile.json")


@pytest.fixture
def victim(stage):
    """A folder of the user, with files that a command would write over, lengthen or remove."""
    folder = stage.here / "victim"
    folder.mkdir()
    (folder / "step_00000001.pt").write_text("mine")
    (folder / ".1-x").write_text("mine")
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_through_a_link(name, stage, run, victim):
    main, arguments = COMMANDS[name]
    for link in LINKS:
        place = run / link
        if place.is_dir():
            shutil.copytree(place, victim, dirs_exist_ok=True)
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(victim if link in ("eval", "export", "checkpoints", "tensorboard") else victim / link)
    outcome = stage.run(main, *arguments, writes=(stage.here / "outputs",))  # the cache of the command
    assert_one_message(outcome, "is a link to", "victim", "Put what is there")


def test_no_figure_is_written_through_a_link(stage, run, victim):
    (run / "figures").symlink_to(victim)
    before = sorted(victim.iterdir())
    with pytest.raises(SystemExit, match="is a link to"):
        plot(["depth", "run", "--case", "0004"])
    assert sorted(victim.iterdir()) == before


@pytest.mark.parametrize("link", LINKS)
def test_every_link_out_of_a_run_is_noticed(link, stage, run, victim):
    """Also one that leads to nothing yet, and one below a folder."""
    (run / "below").mkdir()
    for place in (run / f"{link}2", run / "below" / link):
        place.symlink_to(victim / "none")
        with pytest.raises(UserError, match="is a link to"):
            check_links(run)
        place.unlink()
    check_links(run)


def test_links_of_the_user_are_followed(stage, run, victim, image):
    """To the run folder, within it, and of a run that is only read."""
    (stage.here / "link").symlink_to(run)
    (run / "loop").symlink_to("loop")
    (run / "newest.pt").symlink_to("checkpoints/best.pt")
    check_links(stage.here / "link")
    assert stage.run(evaluation.main, "ckpt=link", "figures=0", writes=(run, stage.here / "link")).status == 0
    shutil.move(run / "checkpoints", victim / "checkpoints")
    (run / "checkpoints").symlink_to(victim / "checkpoints")
    assert stage.run(predict.main, "ckpt=run", f"input={image}", "output=out").status == 0
