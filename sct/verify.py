"""`python -m sct.verify ckpt=RUN`: scores a run again and compares with its card; `retrain=true` also trains again."""

from sct.config import command
from sct.config.help import Page


def main() -> None:
    command.run("sct.tasks.verify:verify", config_name="verify", page=Page(__doc__))


if __name__ == "__main__":
    main()
