"""Finds and loads a trained network: a run's checkpoint, or an export of the run."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from sct.config.check import check_config, read_source, to_dict
from sct.config.trust import Trust
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.exporting import FORMATS
from sct.exporting import manifest as manifests
from sct.exporting.manifest import Manifest, read_manifest
from sct.inference import Model
from sct.inference.look import Look
from sct.inference.parallel import threads_shared
from sct.inference.postprocess import Postprocessing, from_settings
from sct.models.selfcheck import inference_precision
from sct.runs import card
from sct.runs.build import build_segmenter, with_data
from sct.runs.changes import changed_settings
from sct.runs.look import read_look
from sct.runs.postprocessing import read_choice
from sct.runtime import checkpoint
from sct.runtime.precision import NumberFormat

logger = logging.getLogger(__name__)

# in a run's folder; has one folder for each format
FOLDER = "export"
# without bundles: a bundle contains a program, which MONAI runs
BACKENDS = [name for name, form in FORMATS.items() if form.fixed_graph]


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode on its device, and its number format."""

    model: Model
    number_format: NumberFormat


@dataclass(frozen=True)
class Trained:
    """A trained network that is found but not loaded, so that images can be read while it is loaded.

    config: config of the run with the user's changes; source: checkpoint file or exported folder; folder: the run's
    folder; trust: packages whose code the config may name; postprocessing: steps for its label maps; look: how its
    first look is used, None: not; root: the training's data.root; weights: digest of the weights in an export, None of
    a run; changed: settings of the pruning method that differ from the training's.
    """

    config: DictConfig
    data: SegmentationData
    source: Path
    folder: Path
    trust: Trust
    load: Callable[[], Loaded]
    postprocessing: Postprocessing
    look: Look | None
    root: str
    weights: str | None = None
    changed: dict[str, Any] = field(default_factory=dict)


def find_trained(
    ckpt: str,
    *,
    weights: str,
    precision: str | None,
    backend: str | None,
    changes: dict[str, Any],
    device: torch.device,
    trust: Trust,
    postprocess: bool = True,
    look: bool = True,
) -> Trained:
    """Finds the network of `ckpt`, with its config and data set.

    ckpt: a run or an exported folder; backend: use the run's export in this format instead of the run's network;
    precision: None for the precision of the training, or of the check of the export; changes: settings that replace
    settings of the run, such as {"data": {"root": ...}}; trust: only its plugins count, since the config is a saved
    one; postprocess: whether the steps that the run has chosen are applied; look: whether its first look is used, if
    it is calibrated: by the run itself, never by an export.
    """
    folder = find_export(ckpt, weights=weights, backend=backend)
    if folder is None:
        return find_checkpoint(
            ckpt,
            weights=weights,
            precision=precision,
            changes=changes,
            device=device,
            trust=trust,
            postprocess=postprocess,
            look=look,
        )
    manifest = read_manifest(folder)
    check_manifest(manifest, folder=folder, ckpt=ckpt, weights=weights, backend=backend)
    form = FORMATS[manifest.format]
    form.require()
    chosen = precision or manifest.precision
    check_precision(chosen, name=manifest.format)
    if weights != "best" and backend is None:
        logger.warning("weights=%s is ignored: an exported folder holds one set of weights", weights)
    if chosen != manifest.precision:
        logger.warning("precision=%s: this export was only checked with %s", chosen, manifest.precision)
    if changes.get("encoder"):
        raise UserError(
            f"encoder.reducer: the pruning of the exported graph in {folder} is fixed. Give ckpt=RUN, the run itself, "
            "to change it."
        )
    trust = trust.saved(folder)
    config, data = with_data(manifest.config, changes=changes, trust=trust)
    if look and config.get("look") is not None:
        logger.info("%s has no first look, as no exported graph has: every window is predicted", folder)

    def load() -> Loaded:
        manifests.check_files(manifest, folder=folder, needed=form.files)
        logger.info("%s: %s in %s, step %d", folder, manifest.format, chosen, manifest.step)
        model = form.load(folder, device=device, precision=chosen, batch=manifest.batch)
        # the graph itself contains its number format
        return Loaded(model, NumberFormat("fp32", f"as format={manifest.format} takes and gives it"))

    steps = manifest.postprocessing if postprocess else None
    postprocessing = from_settings(steps, outputs=data.outputs, source=str(folder / manifests.FILE))
    root = str(manifest.config["data"]["root"])
    return Trained(config, data, folder, folder, trust, load, postprocessing, None, root, weights=manifest.weights)


def find_checkpoint(
    ckpt: str,
    *,
    weights: str,
    precision: str | None,
    changes: dict[str, Any],
    device: torch.device,
    trust: Trust,
    postprocess: bool,
    look: bool,
) -> Trained:
    """`find_trained` for the checkpoint of a run."""
    path = checkpoint.find(ckpt, weights=weights)
    state = checkpoint.load(path)
    trust, changed = trust.saved(path), {}
    if asked := changes.get("encoder"):
        saved = OmegaConf.create(state["config"])
        check_config(saved, read=read_source, trust=trust)
        changed = changed_settings(saved, asked, trust=trust)
        changes = {**changes, "encoder": {"reducer": changed}}
    config, data = with_data(state["config"], changes=changes, trust=trust)
    if not data.labelled:
        raise UserError(
            f"{path} was pretrained on images without labels (data.labelled=false): it reconstructs images and knows "
            f"no class. Train from it, with labels:  python -m sct.train +experiment=NAME init={ckpt}"
        )
    # resolved, as all that is saved
    changed = {name: to_dict(config.encoder)["reducer"][name] for name in changed}
    # the state is not kept: it may also have the optimizer's statistics
    tensors, step = checkpoint.weights_of(state), state["step"]

    def load() -> Loaded:
        # on one thread: an image is read at the same time; with all threads for both, each would take twice as long
        with threads_shared(torch.get_num_threads()):
            network = build_segmenter(config, data=data, trust=trust)
            checkpoint.load_weights(network, tensors, source=str(path))
            logger.info("%s: step %d, %s", path, step, data.outputs.names)
            network = network.to(device).eval()
            trained = config.trainer.precision
            chosen = inference_precision(precision, trained=trained, network=network, device=device)
            chosen.log()
            return Loaded(network, chosen)

    folder, root = checkpoint.folder_of(path), str(state["config"]["data"]["root"])
    postprocessing = read_choice(folder, weights=tensors, outputs=data.outputs) if postprocess else Postprocessing()
    chosen = read_look(folder, weights=tensors, has_look=config.get("look") is not None) if look else None
    return Trained(config, data, path, folder, trust, load, postprocessing, chosen, root, changed=changed)


def find_export(ckpt: str, *, weights: str, backend: str | None) -> Path | None:
    """The exported folder for `ckpt` and `backend`; None for the run's checkpoint."""
    path = Path(ckpt)
    if backend is not None and backend not in BACKENDS:
        raise UserError(f"backend={backend} is unknown: choose one of {', '.join(BACKENDS)}, or leave it out.")
    if (path / manifests.FILE).exists():
        return path
    if backend is None:
        return None
    folder = default_folder(ckpt, weights=weights, form=backend)
    if not (folder / manifests.FILE).exists():
        raise UserError(
            f"backend={backend}: {folder} holds no export. Make it with  python -m sct.export ckpt={ckpt} "
            f"format={backend}  or give an exported folder as ckpt."
        )
    return folder


def default_folder(ckpt: str, *, weights: str, form: str) -> Path:
    """The folder for an export of a run if the user names no other folder."""
    return checkpoint.folder_of(checkpoint.find(ckpt, weights=weights)) / FOLDER / form


def check_manifest(manifest: Manifest, *, folder: Path, ckpt: str, weights: str, backend: str | None) -> None:
    """UserError if the export is a bundle, failed its check, or has another format or other weights."""
    if manifest.format not in BACKENDS:
        raise UserError(f"{folder} is a {manifest.format}: see its docs/README.md to run it, or give ckpt=RUN.")
    if manifest.check.get("passed") is not True:
        raise UserError(
            f"{folder} failed the check after its export: only {manifest.check.get('equal_labels')} of its labels were "
            "equal to the labels of the original. Export the run again, in another format or precision."
        )
    if backend not in (None, manifest.format):
        raise UserError(f"backend={backend}, but {folder} has format {manifest.format}: leave backend out.")
    if folder == Path(ckpt):
        return
    state = checkpoint.load(checkpoint.find(ckpt, weights=weights))
    if card.weights_digest(checkpoint.weights_of(state)) != manifest.weights:
        raise UserError(
            f"{folder} was exported at step {manifest.step} and has other weights than weights={weights} of "
            f"{ckpt} (step {state['step']}). Export the run again, or give ckpt={folder} to use the exported weights."
        )


def check_precision(precision: str, *, name: str) -> None:
    """UserError if the runtime of a format can't compute in `precision`."""
    known = FORMATS[name].precisions
    if precision == "auto":
        raise UserError(
            f"precision=auto: an export of format {name} computes in the precision of its check. Leave precision out, "
            f"or give {' or '.join(known)}."
        )
    if precision not in known:
        others = [other for other, form in FORMATS.items() if precision in form.precisions]
        raise UserError(
            f"precision={precision}: {name} computes in {' or '.join(known)} here"
            + (f"; {', '.join(others)} can do that." if others else ".")
        )
