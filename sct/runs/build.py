"""From a config to the data set, the network and the inferer."""

import copy
import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sct.config.check import build, check_config, read_source, target_nodes
from sct.config.trust import SHIPPED_ALONE, Trust
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.inference import Inferer
from sct.models.base import ImageOnly
from sct.models.completion.scatter import Scatter
from sct.models.segmenter import Segmenter

logger = logging.getLogger(__name__)


def build_segmenter(cfg: DictConfig, *, data: SegmentationData, trust: Trust = SHIPPED_ALONE) -> Segmenter:
    """The network of a config; sizes, channels and outputs come from the data set.

    A `model` is a whole network and takes the place of encoder, completion and decoder.
    """
    outputs = data.outputs
    sizes: dict[str, Any] = {
        "image_size": data.roi_size,
        "in_channels": data.num_channels,
        "num_classes": outputs.num_channels,
        "overlapping": outputs.overlapping,
    }
    if cfg.get("model") is not None:
        logger.info("model=%s takes the place of encoder, completion and decoder", cfg.model["_target_"])
        network, encoder = build(cfg.model, key="model", trust=trust), ImageOnly(**sizes)
        return Segmenter(encoder=encoder, completion=Scatter, decoder=network, num_classes=outputs.num_channels)
    encoder = build(cfg.encoder, key="encoder", trust=trust, **sizes)
    return Segmenter(
        encoder=encoder,
        completion=build(cfg.completion, key="completion", trust=trust),
        decoder=build(cfg.decoder, key="decoder", trust=trust),
        num_classes=outputs.num_channels,
    )


def use_found(cfg: DictConfig) -> None:
    """Puts what a training has found in the files of its data set among the settings of the data set.

    UserError for a part in it: what is found comes from a run folder, and a config that is trusted may take it up.
    """
    if found := cfg.get("found"):
        for key, node in target_nodes(found, key="found"):
            raise UserError(
                f"{key}._target_={node['_target_']} is in the config of a run: a training finds names and numbers, no "
                "code. The run has been changed: take its original, or start anew with another run_dir."
            )
        cfg.data = OmegaConf.merge(cfg.data, found)


def with_data(config: dict[str, Any], *, changes: dict[str, Any], trust: Trust) -> tuple[DictConfig, SegmentationData]:
    """A run's config with changes to its groups, checked, and its data set."""
    cfg = OmegaConf.create(copy.deepcopy(config))
    use_found(cfg)
    for group, settings in changes.items():
        # with a target, settings are a whole other choice (inferer=fast), else single ones of the run's
        cfg[group] = settings if "_target_" in settings else OmegaConf.merge(cfg[group], settings)
    # loss and optimizer are not built: they need not be imported
    check_config(cfg, read=read_source, trust=trust)
    return cfg, build(cfg.data, key="data", trust=trust)


def build_inferer(cfg: DictConfig, *, trust: Trust = SHIPPED_ALONE) -> Inferer:
    """How the config predicts whole images."""
    return build(cfg.inferer, key="inferer", trust=trust)
