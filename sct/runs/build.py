"""From a config to the data set, the network and the inferer."""

import copy
import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sct.config.check import build, check_config, read_source
from sct.data.module import SegmentationData
from sct.inference import Inferer
from sct.models.base import ImageOnly
from sct.models.completion.scatter import Scatter
from sct.models.segmenter import Segmenter

logger = logging.getLogger(__name__)


def build_segmenter(cfg: DictConfig, *, data: SegmentationData) -> Segmenter:
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
        network, encoder = build(cfg.model, key="model"), ImageOnly(**sizes)
        return Segmenter(encoder=encoder, completion=Scatter, decoder=network, num_classes=outputs.num_channels)
    encoder = build(cfg.encoder, key="encoder", **sizes)
    return Segmenter(
        encoder=encoder,
        completion=build(cfg.completion, key="completion"),
        decoder=build(cfg.decoder, key="decoder"),
        num_classes=outputs.num_channels,
    )


def use_found(cfg: DictConfig) -> None:
    """Puts what a training has found in the files of its data set among the settings of the data set."""
    if found := cfg.get("found"):
        cfg.data = OmegaConf.merge(cfg.data, found)


def with_data(config: dict[str, Any], *, changes: dict[str, Any]) -> tuple[DictConfig, SegmentationData]:
    """A run's config with changes to its groups, checked, and its data set."""
    cfg = OmegaConf.create(copy.deepcopy(config))
    use_found(cfg)
    for group, settings in changes.items():
        # with a target, settings are a whole other choice (inferer=fast), else single ones of the run's
        cfg[group] = settings if "_target_" in settings else OmegaConf.merge(cfg[group], settings)
    # loss and optimizer are not built: they need not be imported
    check_config(cfg, read=read_source)
    return cfg, build(cfg.data, key="data")


def build_inferer(cfg: DictConfig) -> Inferer:
    """How the config predicts whole images."""
    return build(cfg.inferer, key="inferer")
