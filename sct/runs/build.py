"""Builds the data set, the network, the loss and the inferer of a config."""

import copy
import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from sct.config.check import build, check_config, read_source, resolve_target, target_nodes, target_path
from sct.config.trust import SHIPPED_ALONE, Trust
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.inference import Inferer
from sct.models.base import ImageOnly
from sct.models.completion.scatter import Scatter
from sct.models.segmenter import Segmenter
from sct.runs.folder import WRITTEN

logger = logging.getLogger(__name__)


def build_segmenter(cfg: DictConfig, *, data: SegmentationData, trust: Trust = SHIPPED_ALONE) -> Segmenter:
    """The network of a config; sizes, channels and outputs come from the data set.

    A `model` in the config is a complete network, used instead of encoder, completion and decoder. UserError for a
    `look` without labels to learn from.
    """
    outputs = data.outputs
    sizes: dict[str, Any] = {
        "image_size": data.roi_size,
        "in_channels": data.num_channels,
        "num_classes": data.num_outputs,
        "overlapping": outputs.overlapping,
    }
    look = None
    if cfg.get("look") is not None:
        if not data.labelled:
            raise UserError("look learns from labels, but data.labelled=false leaves them out. Give look=null.")
        look = build(cfg.look, key="look", trust=trust)
    if cfg.get("model") is not None:
        logger.info("model=%s is used instead of encoder, completion and decoder", cfg.model["_target_"])
        network, encoder = build(cfg.model, key="model", trust=trust), ImageOnly(**sizes)
        return Segmenter(encoder=encoder, completion=Scatter, decoder=network, num_classes=data.num_outputs, look=look)
    encoder = build(cfg.encoder, key="encoder", trust=trust, **sizes)
    return Segmenter(
        encoder=encoder,
        completion=build(cfg.completion, key="completion", trust=trust),
        decoder=build(cfg.decoder, key="decoder", trust=trust),
        num_classes=data.num_outputs,
        look=look,
    )


def build_criterion(cfg: DictConfig, *, data: SegmentationData, trust: Trust = SHIPPED_ALONE) -> nn.Module:
    """The loss of a config: (Prediction, target, image=image) -> the loss of a training step and its parts.

    A loss gets the outputs of the data set, unless it says `needs_labels = False`: it then compares with the image.
    UserError where one of data and loss has labels and the other one needs none.
    """
    path = target_path(cfg.loss, key="loss", trust=trust)
    needs_labels = getattr(resolve_target(path, key="loss", trust=trust), "needs_labels", True)
    if needs_labels and not data.labelled:
        raise UserError(f"loss={path} needs labels, but data.labelled=false leaves them out. Give loss=masked.")
    if not needs_labels and data.labelled:
        raise UserError(
            f"loss={path} asks for the image and not for labels. Give data.labelled=false, or loss=dice_ce."
        )
    if not needs_labels and cfg.trainer.get("deep_supervision"):
        raise UserError(f"loss={path} does not judge coarser levels. Give trainer.deep_supervision=false.")
    if not needs_labels:
        return build(cfg.loss, key="loss", trust=trust)
    return build(cfg.loss, key="loss", trust=trust, outputs=data.outputs, plugins=trust.plugins)


def use_found(cfg: DictConfig) -> None:
    """Adds the section `found` (what a training read from the files of its data set) to the settings of the data set.

    UserError if `found` names code (`_target_`) or a folder: it comes from a run folder, also when the rest of the
    config is trusted, and would take the place of a folder that the command names.
    """
    if found := cfg.get("found"):
        for key, node in target_nodes(found, key="found"):
            raise UserError(
                f"{key}._target_={node['_target_']} is in the config of a run: a training writes names and numbers "
                "there, no code. The run has been changed: use its original, or start anew with another run_dir."
            )
        for key in WRITTEN:
            if key in found:
                raise UserError(
                    f"found.{key}={found[key]} is in the config of a run: no training writes the name of a folder "
                    "there. The run has been changed: use its original, or start anew with another run_dir."
                )
        cfg.data = OmegaConf.merge(cfg.data, found)


def with_data(config: dict[str, Any], *, changes: dict[str, Any], trust: Trust) -> tuple[DictConfig, SegmentationData]:
    """Applies `changes` to groups of a run's config and checks it; returns the config and its data set."""
    cfg = OmegaConf.create(copy.deepcopy(config))
    use_found(cfg)
    for group, settings in changes.items():
        # with a target, settings replace the group (inferer=fast), else they change single settings of the run
        cfg[group] = settings if "_target_" in settings else OmegaConf.merge(cfg[group], settings)
    # loss, optimizer and augmentation are not built here, so their code is not imported
    check_config(cfg, read=read_source, trust=trust)
    described = cfg.data.copy()
    described.augment = None
    data = build(described, key="data", trust=trust)
    # the folders of a saved config may be anybody's
    data.may_write = tuple(name for name in data.may_write if name in changes.get("data", {}))
    return cfg, data


def build_inferer(cfg: DictConfig, *, trust: Trust = SHIPPED_ALONE) -> Inferer:
    """The inferer of a config, which predicts whole images."""
    return build(cfg.inferer, key="inferer", trust=trust)
