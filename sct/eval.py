"""`python -m sct.eval ckpt=RUN`: scores a trained segmenter on cases it never saw."""

from sct.config import command
from sct.config.help import Page


def main() -> None:
    command.run(
        "sct.tasks.eval:evaluate",
        config_name="eval",
        page=Page(__doc__, groups=("inferer",)),
        open_groups=("data", "inferer", "encoder"),
    )


if __name__ == "__main__":
    main()
