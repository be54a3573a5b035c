"""`python -m sct.train +experiment=NAME`: trains a segmenter."""

import sys

from sct import cli


def main() -> None:
    sys.argv[1:] = cli.resumed_arguments(sys.argv[1:])
    cli.run("sct.tasks.train:train", config_name="train")


if __name__ == "__main__":
    main()
