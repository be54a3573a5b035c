"""`python -m sct.data check|describe|plan data=NAME data.root=PATH`: a data set verified, shown in figures, or planned.

check reads every file and tells what is wrong. describe also writes tables, the facts about every case, and a picture.
plan writes a config of the data set and an experiment for it, each line with its reason: plan name=mine.
"""

import sys

from sct.config import command
from sct.config.help import Page

# what is done -> the task, and the root config of its keys
TASKS = {
    "check": ("sct.tasks.data:check_data", "train"),
    "describe": ("sct.tasks.data:describe_data", "train"),
    "plan": ("sct.tasks.plan:plan_data", "plan"),
}
KEYS = {
    "train": ("data", "run_dir", "paths"),
    "plan": ("name", "device", "memory", "cores", "overwrite", "data", "plugins", "paths"),
}


def main() -> None:
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    if action in ("-h", "--help"):
        command.run("", config_name="train", page=page("train"))
        return
    if action not in TASKS:
        command.fail(f"python -m sct.data {' | '.join(TASKS)} data=NAME data.root=PATH: {action!r} is none of them.")
    del sys.argv[1]
    task, config_name = TASKS[action]
    command.run(task, config_name=config_name, page=page(config_name))


def page(config_name: str) -> Page:
    """The help of the actions with a root config."""
    return Page(__doc__, keys=KEYS[config_name], groups=("data",))


if __name__ == "__main__":
    main()
