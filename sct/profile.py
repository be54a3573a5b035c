"""`python -m sct.profile +experiment=NAME` (or `ckpt=RUN`): what a network costs, in whole and by part."""

from sct.config import command


def main() -> None:
    command.run("sct.tasks.profile:profile", config_name="profile")


if __name__ == "__main__":
    main()
