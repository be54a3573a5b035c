"""The work of `sct.data`: checks a data set, or describes it in tables and a figure."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from sct.config.check import build
from sct.config.trust import Trust
from sct.data.module import SegmentationData
from sct.data.splits import SPLITS
from sct.data.survey import CaseFacts, describe, markdown, set_faults, survey_case
from sct.errors import UserError
from sct.models.patch import Extent, patch_sizes
from sct.plots import style
from sct.plots.survey import draw_survey
from sct.runs.folder import log_to
from sct.runtime.extras import install_command
from sct.runtime.files import write_text

logger = logging.getLogger(__name__)

# edge of the patches in which foreground is counted if the encoder has no patches
PATCH_SIZE = 16


def describe_data(cfg: DictConfig) -> None:
    """Reads every file; writes tables, the facts about every case, and a figure if matplotlib is installed."""
    data, facts = survey(cfg)
    patch_size = patch_size_of(cfg, data)
    folder = Path(cfg.run_dir or f"{cfg.paths.outputs}/data/{Path(data.root).name}")
    text = markdown(describe(facts, patch_size=patch_size, num_channels=data.num_channels))
    write_text(folder / "describe.md", f"# {data.root}\n\n{text}")
    write_text(folder / "cases.json", json.dumps([asdict(case) for case in facts], indent=1) + "\n")
    if style.is_installed():
        style.save(draw_survey(facts, patch_size=patch_size, title=Path(data.root).name), folder / "describe")
    else:
        logger.info("No picture: it needs matplotlib. Install it with: %s", install_command("figures"))
    logger.info("\n%s\nWritten to %s", text, folder)


def check_data(cfg: DictConfig) -> None:
    """Reads every file; UserError with the faults of single files or of the data set."""
    data, facts = survey(cfg)
    faults = set_faults(facts, resampled=data.spacing is not None or data.resize_to is not None)
    if faults:
        listed = "\n  ".join(faults)
        raise UserError(
            f"Every file is good, but the data set of {len(facts)} cases has {len(faults)} fault(s):\n  {listed}"
        )
    counts = ", ".join(f"{sum(case.split == split for case in facts)} {split}" for split in SPLITS)
    logger.info("%s: %d cases (%s), no fault found", data.root, len(facts), counts)


def survey(cfg: DictConfig) -> tuple[SegmentationData, list[CaseFacts]]:
    """Builds the data set of a config and checks every file; returns the data set and the facts about each case."""
    log_to(None)
    data = build(cfg.data, key="data", trust=Trust.of_command(cfg))
    data.prepare()
    facts = [
        survey_case(case, split=split, data=data, patch_size=patch_size_of(cfg, data))
        for split in SPLITS
        for case in data.cases(split)
    ]
    return data, facts


def patch_size_of(cfg: DictConfig, data: SegmentationData) -> Extent:
    """The encoder's patch size along each axis: foreground is counted in patches of this size."""
    return patch_sizes(cfg.encoder.get("patch_size", PATCH_SIZE), num_axes=data.spatial_dims)
