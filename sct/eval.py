"""`python -m sct.eval ckpt=RUN`: scores a trained segmenter on cases it never saw."""

from sct.config import command


def main() -> None:
    command.run("sct.tasks.eval:evaluate", config_name="eval", open_groups=("data", "inferer"))


if __name__ == "__main__":
    main()
