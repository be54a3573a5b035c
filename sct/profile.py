"""`python -m sct.profile +experiment=NAME` (or `ckpt=RUN`): what a network costs, in whole and by part."""

from sct.config import command
from sct.config.help import Page

PAGE = Page(
    __doc__,
    keys=("ckpt", "run_dir", "seed", "profile", "trainer.device"),
    notes="Groups, experiments and all keys of a network are those of training:  python -m sct.train --help",
)


def main() -> None:
    command.run("sct.tasks.profile:profile", config_name="profile", page=PAGE)


if __name__ == "__main__":
    main()
