"""`python -m sct.train +experiment=NAME`: trains a segmenter."""

import sys

from sct.config import command
from sct.config.check import GROUPS
from sct.config.help import Page
from sct.config.saved import APPENDED, resumed_arguments
from sct.errors import UserError

PAGE = Page(
    __doc__,
    keys=("name", "seed", "resume", "init", "pretrained", "run_dir", *GROUPS, "pruning", "trainer", "paths"),
    groups=GROUPS,
    appended=APPENDED,
    notes="""Examples
  python -m sct.train +experiment=demo
  python -m sct.train +experiment=btcv_stp_mta data.root=/data/BTCV encoder.reducer.ratio=0.75
  python -m sct.train -m +experiment=btcv_stp_mta pruning.ratio=0.25,0.5,0.75,0.9
  python -m sct.train -m +sweep=stp_ratio seed=0,1,2
  python -m sct.train -m +experiment=hippocampus_stp_mta data.folds=4 data.fold=0,1,2,3 resume=once
Put choices before --help to see their keys and values:  python -m sct.train encoder=dtop --help
Add  -c job  to print the whole config and stop.
""",
)


def main() -> None:
    try:
        sys.argv[1:] = resumed_arguments(sys.argv[1:])
    except UserError as error:
        command.fail(str(error))
    command.run("sct.tasks.train:train", config_name="train", page=PAGE)


if __name__ == "__main__":
    main()
