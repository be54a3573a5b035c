"""Sparse-token transformers for medical image segmentation: train, compare, profile, ship.

The Python interface is `load`, which opens a trained run, and `build`, which makes an untrained experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sct.runtime.version import __version__

if TYPE_CHECKING:  # torch and MONAI take seconds to import, and the commands' --help needs neither
    from sct.runs.experiment import Experiment
    from sct.runs.run import Run

__all__ = ["__version__", "build", "load"]


def load(
    path: str | Path,
    *,
    weights: str = "best",
    device: str = "auto",
    precision: str | None = None,
    backend: str | None = None,
    postprocess: str = "chosen",
    first_look: str = "calibrated",
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> Run:
    """A trained run: `.predict`, `.evaluate`, `.profile`, `.network`, `.data`, `.config`.

    path: a run folder, a checkpoint file, or a folder that `sct.export` wrote
    weights: `best` or `last`, where path is a run folder
    device: auto, cpu, cuda or cuda:1
    precision: auto, fp32, bf16 or fp16; None: as in training
    backend: torch, onnx or openvino: the network that `sct.export` wrote to the run's folder predicts
    postprocess: `chosen`: the post-processing that was chosen for the run, if any; `none`: the labels as predicted
    first_look: `calibrated`: the run's first look, if it is calibrated, chooses the windows; `none`: all windows
    overrides: settings of prediction, data and pruning, as on the command line: ["inferer=fast",
        "data.root=/data/BTCV", "encoder.reducer.ratio=0.7"]
    plugins: packages of your own whose code the run may name: ["mypkg"]

    Raises UserError where path holds no network, or an override is not valid.
    """
    from sct.runs import run

    return run.load(
        path,
        weights=weights,
        device=device,
        precision=precision,
        backend=backend,
        postprocess=postprocess,
        first_look=first_look,
        overrides=overrides,
        plugins=plugins,
    )


def build(experiment: str | None = None, *, overrides: Sequence[str] = (), device: str = "auto") -> Experiment:
    """An untrained experiment: `.network`, `.data`, `.config`, `.criterion`, `.inferer`, `.profile`.

    experiment: a file of `configs/experiment`, such as `btcv_stp_mta`; None: the defaults of `sct.train`
    overrides: what follows `+experiment=NAME` on the command line: ["encoder=evit", "pruning.ratio=0.75"]

    Raises UserError for an unknown experiment, key or value.
    """
    from sct.runs import experiment as experiments
    from sct.runtime.distributed import pick_device

    return experiments.from_name(experiment, overrides=overrides, device=pick_device(device))
