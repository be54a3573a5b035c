"""Sparsity of each class in the data, and its gain in Dice over a baseline (tables 6 and 7 of the STP paper).

    sct-plot sparsity --baseline RUN --run RUN
    sct-plot sparsity --baseline RUN --run RUN --split val --output table6

Both are folders of runs that sct.eval has evaluated on the split. Sparsity is measured on the preprocessed labels of
this split, with the patch size of --run. The numbers are written beside the figure as csv.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from sct.config.check import build, check_config
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.models.patch import patch_sizes
from sct.plots.commands import base
from sct.plots.sparsity import class_gains, class_sparsity, comma_separated, draw_sparsity
from sct.reports.collect import EvaluatedRun, read_run

# edge of the patches in which classes are counted if the network has no patches
PATCH_SIZE = 16


def parser() -> argparse.ArgumentParser:
    made = base.make_parser(__doc__)
    made.add_argument("--baseline", required=True, metavar="RUN", help="a run folder, for example of the dense network")
    made.add_argument("--run", required=True, metavar="RUN", help="a run folder with the same data")
    made.add_argument("--split", choices=("val", "test"), default="test")
    made.add_argument("--root", help="data.root, if it differs from the training")
    return made


def evaluated(option: str, folder: Path, *, split: str) -> EvaluatedRun:
    if not (folder / "eval" / split / "summary.json").is_file():
        raise UserError(
            f"--{option} {folder} has no eval/{split}/summary.json. Give a run folder, and run first  "
            f"python -m sct.eval ckpt={folder} split={split}"
        )
    return read_run(folder, folder, split=split)


def load_data(cfg: DictConfig, *, root: str | None) -> SegmentationData:
    check_config(cfg)
    if root is not None:
        cfg.data.root = root
    return build(cfg.data, key="data")


def labels_of(data: SegmentationData, *, split: str) -> Iterator[Tensor]:
    for case in data.cases(split):
        label = data.load_case(case).label
        assert label is not None
        yield label


def draw(options: argparse.Namespace) -> base.Drawn:
    baseline, run = (
        evaluated(option, Path(getattr(options, option)), split=options.split) for option in ("baseline", "run")
    )
    cases, baseline_cases = ({row.case_id for row in part.cases} for part in (run, baseline))
    if cases != baseline_cases:
        raise UserError(
            f"--run was evaluated on {len(cases)} cases and --baseline on {len(baseline_cases)}; "
            f"{len(cases & baseline_cases)} cases are the same. Compare runs with the same data and split."
        )
    cfg = OmegaConf.create(run.config)
    data = load_data(cfg, root=options.root)
    num_cases = len(data.cases(options.split))
    patch_size = patch_sizes(cfg.encoder.get("patch_size", PATCH_SIZE), num_axes=data.spatial_dims)
    gains = class_gains(
        class_sparsity(
            labels_of(data, split=options.split),
            outputs=data.outputs,
            patch_size=patch_size,
        ),
        baseline=baseline.summary["dice"]["per_class"],
        run=run.summary["dice"]["per_class"],
    )
    figure = draw_sparsity(
        gains,
        baseline=baseline.name,
        run=run.name,
        patch_size=patch_size,
        about=f"{num_cases} cases of {options.split} on the network's grid, padding included; shares are means over "
        "cases. Sparser classes are further to the right. One run each: differences within the spread over seeds are "
        "not significant.",
    )
    stem = Path(options.run) / "figures" / f"sparsity_{options.split}"
    return base.Drawn(figure, stem, comma_separated(gains))
