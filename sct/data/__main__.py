"""`python -m sct.data check|describe data=NAME data.root=PATH`: a data set verified, or shown in figures.

check reads every file and tells what is wrong. describe also writes tables, the facts about every case, and a picture.
"""

import sys

from sct.config import command
from sct.config.help import Page

TASKS = {"check": "sct.tasks.data:check_data", "describe": "sct.tasks.data:describe_data"}
PAGE = Page(__doc__, keys=("data", "run_dir", "paths"), groups=("data",))


def main() -> None:
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    if action in ("-h", "--help"):
        command.run("", config_name="train", page=PAGE)
        return
    if action not in TASKS:
        command.fail(f"python -m sct.data {' | '.join(TASKS)} data=NAME data.root=PATH: {action!r} is neither.")
    del sys.argv[1]
    command.run(TASKS[action], config_name="train", page=PAGE)


if __name__ == "__main__":
    main()
