"""The network that predicts: a run's own, or one that was exported from it.

Letters: B batch, C channels, Q channels of the logits, S size of the window (2 or 3 dims).
"""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.exporting import FORMATS
from sct.exporting import manifest as manifests
from sct.exporting.manifest import Manifest, read_manifest
from sct.inference import Model
from sct.inference.cases import Loader
from sct.inference.parallel import threads_shared
from sct.models.segmenter import Segmenter
from sct.models.selfcheck import inference_precision
from sct.runs import card
from sct.runs.build import find_trained, with_data
from sct.runtime import checkpoint

logger = logging.getLogger(__name__)

# below a run's folder: one folder a format
FOLDER = "export"
# a bundle holds a program, and is for MONAI to run
BACKENDS = [name for name, form in FORMATS.items() if form.fixed_graph]


def find_predictor(
    cfg: DictConfig, *, changes: dict[str, Any], device: torch.device
) -> tuple[DictConfig, SegmentationData, Loader]:
    """Config of the run, data set, and what loads the network: where images can be read meanwhile.

    `ckpt` is a run, whose own network predicts or, with `backend`, what was exported to its folder; or it is an
    exported folder, which says itself what it is. An exported network has its precision in it.
    """
    folder = find_export(cfg)
    if folder is None:
        return find_own(cfg, changes=changes, device=device)
    manifest = read_manifest(folder)
    form = FORMATS[manifest.format]
    form.require()
    check_manifest(manifest, folder=folder, cfg=cfg)
    precision = cfg.precision or manifest.precision
    check_precision(precision, name=manifest.format)
    if cfg.weights != "best" and cfg.backend is None:
        logger.warning("weights=%s is ignored: an exported folder holds one set of weights", cfg.weights)
    if precision != manifest.precision:
        logger.warning("precision=%s: this export was checked with %s alone", precision, manifest.precision)
    run_cfg, data = with_data(manifest.config, changes=changes)

    def load() -> tuple[Model, torch.dtype]:
        logger.info("%s: %s in %s, step %d", folder, manifest.format, precision, manifest.step)
        return form.load(folder, device=device, precision=precision, batch=manifest.batch), torch.float32

    return run_cfg, data, load


def find_own(
    cfg: DictConfig, *, changes: dict[str, Any], device: torch.device
) -> tuple[DictConfig, SegmentationData, Loader]:
    """As `find_predictor`, of a run's own network."""
    run_cfg, data, build_trained = find_trained(cfg.ckpt, weights=cfg.weights, changes=changes, device=device)

    def load() -> tuple[Segmenter, torch.dtype]:
        # on one thread: an image is read beside it, and were both on all threads, both would take twice the time
        with threads_shared(torch.get_num_threads()):
            network = build_trained()
            chosen = inference_precision(cfg, run_cfg, network=network, device=device)
            chosen.log()
            return network, chosen.dtype

    return run_cfg, data, load


def find_export(cfg: DictConfig) -> Path | None:
    """The exported folder that `ckpt` is, or that `backend` means; None where the run's own network is meant."""
    path = Path(cfg.ckpt)
    if cfg.backend is not None and cfg.backend not in BACKENDS:
        raise UserError(f"backend={cfg.backend} is unknown: choose one of {', '.join(BACKENDS)}, or leave it out.")
    if (path / manifests.FILE).exists():
        return path
    if cfg.backend is None:
        return None
    folder = default_folder(cfg.ckpt, weights=cfg.weights, form=cfg.backend)
    if not (folder / manifests.FILE).exists():
        raise UserError(
            f"backend={cfg.backend}: {folder} holds no export. Make it with  python -m sct.export ckpt={cfg.ckpt} "
            f"format={cfg.backend}  or give an exported folder as ckpt."
        )
    return folder


def default_folder(ckpt: str, *, weights: str, form: str) -> Path:
    """Where a run is exported to, if nothing else is said."""
    return checkpoint.folder_of(checkpoint.find(ckpt, weights=weights)) / FOLDER / form


def check_manifest(manifest: Manifest, *, folder: Path, cfg: DictConfig) -> None:
    """UserError for a bundle, and an export that failed its check, is of another format or of other weights."""
    if manifest.format not in BACKENDS:
        raise UserError(f"{folder} is a {manifest.format}: its docs/README.md says how to run it. Or give ckpt=RUN.")
    if not manifest.check["passed"]:
        raise UserError(
            f"{folder} failed the check after its export: only {manifest.check['equal_labels']:.6f} of the labels were "
            "equal to the original's. Export the run again, in another format or precision."
        )
    if cfg.backend not in (None, manifest.format):
        raise UserError(f"backend={cfg.backend}, but {folder} is of format {manifest.format}: leave backend out.")
    if folder == Path(cfg.ckpt):
        return
    state = checkpoint.load(checkpoint.find(cfg.ckpt, weights=cfg.weights))
    if card.weights_digest(checkpoint.weights_of(state)) != manifest.weights:
        raise UserError(
            f"{folder} was exported at step {manifest.step} and has other weights than weights={cfg.weights} of "
            f"{cfg.ckpt} (step {state['step']}). Export the run again, or give ckpt={folder} to predict with those."
        )


def check_precision(precision: str, *, name: str) -> None:
    """UserError where the runtime of a format can't compute in `precision`."""
    known = FORMATS[name].precisions
    if precision == "auto":
        raise UserError(
            f"precision=auto: an export of format {name} computes in what it was checked with. Leave precision out, or "
            f"give {' or '.join(known)}."
        )
    if precision not in known:
        others = [other for other, form in FORMATS.items() if precision in form.precisions]
        raise UserError(
            f"precision={precision}: {name} computes in {' or '.join(known)} here"
            + (f"; {', '.join(others)} can do that." if others else ".")
        )
