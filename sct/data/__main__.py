"""`python -m sct.data check|describe data=NAME data.root=PATH`: a data set verified, or shown in figures."""

import json
import logging
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from sct import cli
from sct.config import build
from sct.data.module import SegmentationData
from sct.data.splits import SPLITS
from sct.data.survey import CaseFacts, describe, markdown, set_faults, survey_case
from sct.errors import UserError
from sct.files import write_text
from sct.plots import style
from sct.plots.survey import draw_survey
from sct.run import log_to

logger = logging.getLogger(__name__)

ACTIONS = ("check", "describe")
# where the encoder has no patches to count foreground in
PATCH_SIZE = 16


def inspect(cfg: DictConfig, *, action: str) -> None:
    """Reads every file; `check` fails with all faults in one message, `describe` writes tables, facts and a picture."""
    log_to(None)
    data = build(cfg.data, key="data")
    data.prepare()
    patch_size = cfg.encoder.get("patch_size", PATCH_SIZE)
    facts = [
        survey_case(case, split=split, data=data, patch_size=patch_size)
        for split in SPLITS
        for case in data.cases(split)
    ]
    if action == "check":
        check(facts, data=data)
        return
    folder = Path(cfg.run_dir or f"{cfg.paths.outputs}/data/{Path(data.root).name}")
    text = markdown(describe(facts, patch_size=patch_size, num_channels=data.num_channels))
    write_text(folder / "describe.md", f"# {data.root}\n\n{text}")
    write_text(folder / "cases.json", json.dumps([asdict(case) for case in facts], indent=1) + "\n")
    if style.is_installed():
        style.save(draw_survey(facts, patch_size=patch_size, title=Path(data.root).name), folder / "describe")
    else:
        logger.info("No picture: it needs matplotlib. Install it with: pip install -c constraints.txt -e '.[figures]'")
    logger.info("\n%s\nWritten to %s", text, folder)


def check(facts: list[CaseFacts], *, data: SegmentationData) -> None:
    """UserError with what is wrong with the set as a whole; single files were checked before."""
    faults = set_faults(facts, resampled=data.spacing is not None or data.resize_to is not None)
    if faults:
        told = "\n  ".join(faults)
        raise UserError(f"Every file is good, but the set of {len(facts)} cases has {len(faults)} fault(s):\n  {told}")
    counts = ", ".join(f"{sum(case.split == split for case in facts)} {split}" for split in SPLITS)
    logger.info("%s: %d cases (%s), no fault found", data.root, len(facts), counts)


def main() -> None:
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    if action not in ACTIONS:
        cli.fail(f"python -m sct.data {' | '.join(ACTIONS)} data=NAME data.root=PATH: {action!r} is neither.")
    del sys.argv[1]
    cli.run(partial(inspect, action=action), config_name="train")


if __name__ == "__main__":
    main()
