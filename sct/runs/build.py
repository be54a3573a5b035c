"""From a config to the data set and the network, and from a checkpoint back to both."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from sct.config.check import build, check_config, read_source
from sct.data.module import SegmentationData
from sct.inference import Inferer
from sct.models.base import ImageOnly
from sct.models.completion.scatter import Scatter
from sct.models.segmenter import Segmenter
from sct.runtime import checkpoint

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


def load_trained(
    ckpt: str, *, weights: str, changes: dict[str, Any], device: torch.device
) -> tuple[DictConfig, SegmentationData, Segmenter]:
    """Config, data set and network of a checkpoint, in evaluation mode.

    `changes` are settings of groups to take instead of those of the run, such as {"data": {"root": ...}}.
    """
    cfg, data, load = find_trained(ckpt, weights=weights, changes=changes, device=device)
    return cfg, data, load()


def find_trained(
    ckpt: str, *, weights: str, changes: dict[str, Any], device: torch.device
) -> tuple[DictConfig, SegmentationData, Callable[[], Segmenter]]:
    """As `load_trained`, but the network is yet to be built: where images can be read meanwhile."""
    path = checkpoint.find(ckpt, weights=weights)
    state = checkpoint.load(path)
    cfg, data = with_data(state["config"], changes=changes)
    # of the state, which may hold an optimizer's too, no more is kept
    own, step = checkpoint.weights_of(state), state["step"]

    def load() -> Segmenter:
        segmenter = build_segmenter(cfg, data=data)
        checkpoint.load_weights(segmenter, own, source=str(path))
        logger.info("%s: step %d, %s", path, step, data.outputs.names)
        return segmenter.to(device).eval()

    return cfg, data, load


def with_data(config: dict[str, Any], *, changes: dict[str, Any]) -> tuple[DictConfig, SegmentationData]:
    """A run's config with changes to its groups, checked, and its data set."""
    cfg = OmegaConf.create(copy.deepcopy(config))
    for group, settings in changes.items():
        # with a target, settings are a whole other choice (inferer=fast), else single ones of the run's
        cfg[group] = settings if "_target_" in settings else OmegaConf.merge(cfg[group], settings)
    # loss and optimizer are not built: they need not be imported
    check_config(cfg, read=read_source)
    return cfg, build(cfg.data, key="data")


def build_inferer(cfg: DictConfig) -> Inferer:
    return build(cfg.inferer, key="inferer")
