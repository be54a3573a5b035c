"""`python -m sct.data check|describe data=NAME data.root=PATH`: a data set verified, or shown in figures."""

import sys

from sct.config import command

TASKS = {"check": "sct.tasks.data:check_data", "describe": "sct.tasks.data:describe_data"}


def main() -> None:
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    if action not in TASKS:
        command.fail(f"python -m sct.data {' | '.join(TASKS)} data=NAME data.root=PATH: {action!r} is neither.")
    del sys.argv[1]
    command.run(TASKS[action], config_name="train")


if __name__ == "__main__":
    main()
