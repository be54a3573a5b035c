"""`python -m sct.profile +experiment=NAME` (or `ckpt=RUN`): what a network costs, in whole and by part."""

import sys

from sct.config import command
from sct.config.help import Page

PAGE = Page(
    __doc__,
    keys=("ckpt", "run_dir", "seed", "profile", "trainer.device"),
    notes="Groups, experiments and all keys of a network are those of training:  python -m sct.train --help\n"
    "With ckpt=RUN, encoder.reducer.KEY=VALUE changes a setting of its pruning method that carries no weights.",
)


def main() -> None:
    # the settings of a trained run's pruning method are known to the run alone
    is_trained = any(argument.startswith("ckpt=") for argument in sys.argv[1:])
    open_groups = ("encoder",) if is_trained else ()
    command.run("sct.tasks.profile:profile", config_name="profile", page=PAGE, open_groups=open_groups)


if __name__ == "__main__":
    main()
