"""`python -m sct.train +experiment=NAME`: trains a segmenter."""

import sys

from sct.config import command


def main() -> None:
    sys.argv[1:] = command.resumed_arguments(sys.argv[1:])
    command.run("sct.tasks.train:train", config_name="train")


if __name__ == "__main__":
    main()
