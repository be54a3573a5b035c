"""Every network that the shipped config groups can make, in a size that takes milliseconds."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from sct.config.check import build
from sct.config.command import compose_config
from sct.config.folders import CONFIG_DIR
from sct.data.outputs import numbered
from sct.losses.criterion import Criterion
from sct.models.patch import patch_sizes
from sct.models.segmenter import Segmenter
from sct.models.tokens import FeatureSpec

CHANNELS, CLASSES, SIZE = 2, 3, 16
# upper limits: what a config sets lower (such as no blocks at all) stays; lists are replaced by these, for patch 4
LIMITS: dict[str, dict[str, Any]] = {
    "encoder": {
        "patch_size": 4,
        "dim": 24,
        "depth": 3,
        "num_heads": 2,
        "drop_path": 0,  # a block that is dropped by chance gets no gradient
        "stem": {"units": [1], "width": 8, "widths": [4, 6, 8]},
        "attention": {"head_dim": 6},
    },
    "completion": {"dim": 24, "num_heads": 2},
    "decoder": {"feature_size": 4, "hidden": 8, "widths": [8, 4], "width": 8, "detail": 4},
}
PRUNING = ("pruning.blocks=[1,2]", "pruning.ratio=0.5")
# encoder and dimensions -> what makes every stage keep some tokens and drop some: thresholds among the scores
SETTINGS = {
    ("asvit", 2): ("encoder.reducer.thresholds=[0.004786,0.010204]", "encoder.reducer.threshold_rate=0.1"),
    ("dtop", 2): ("encoder.reducer.head=fcn", "encoder.reducer.p0=0.4", "encoder.reducer.k=1"),
    ("dtop", 3): ("encoder.reducer.head=fcn", "encoder.reducer.p0=0.4", "encoder.reducer.k=1"),
    # half of the patches ask nothing
    **{(encoder, dims): ("encoder.gate.threshold=0.5",) for encoder in ("apformer", "ap_transunet") for dims in (2, 3)},
    ("asvit", 3): ("encoder.reducer.thresholds=[0.005026,0.010714]", "encoder.reducer.threshold_rate=0.1"),
}


class Combination(NamedTuple):
    encoder: str
    completion: str
    decoder: str
    dims: int

    def __str__(self) -> str:
        return f"{self.encoder}-{self.completion}-{self.decoder}-{self.dims}d"

    @property
    def image_size(self) -> list[int]:
        return [SIZE] * self.dims


def options(group: str) -> list[str]:
    """Names of all config files of a group."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


PLAIN = Combination("stp", "mta", "unetr", 2)


@cache
def composed(group: str, name: str, *overrides: str) -> DictConfig:
    return compose_config("train", overrides=[f"{group}={name}", *PRUNING, *overrides])


def makes_sense(which: Combination) -> bool:
    """Whether the parts can work together; what is false here must be refused with the reason."""
    return which.decoder != "unet" or composed("encoder", which.encoder).encoder.get("stem") is not None


Pairs = Callable[[Combination], Iterable[tuple[object, ...]]]


def covering(combinations: Iterable[Combination], pairs: Pairs) -> set[Combination]:
    """A few of the combinations in which each of the `pairs` of all of them occurs; parts occur about equally often."""
    missing = {which: set(pairs(which)) for which in combinations}
    chosen: set[Combination] = set()
    times = Counter[object]()
    while any(missing.values()):
        best = max(missing, key=lambda which: (len(missing[which]), -sum(times[part] for part in which)))
        chosen.add(best)
        times.update(best)
        covered = frozenset(missing[best])
        for left in missing.values():
            left -= covered
    return chosen


EVERY = [Combination(*names) for names in itertools.product(*(options(group) for group in LIMITS), (2, 3))]
COMBINATIONS = [which for which in EVERY if makes_sense(which)]
REFUSED = [which for which in EVERY if not makes_sense(which)]


def shrink(node: DictConfig, limits: dict[str, Any]) -> None:
    """Applies upper limits to a node, and to the nodes in it."""
    for name, limit in limits.items():
        if node.get(name) is None:
            continue
        if isinstance(limit, dict):
            shrink(node[name], limit)
        else:
            node[name] = min(node[name], limit) if isinstance(limit, int) else limit


@cache
def little_config(which: Combination, *overrides: str) -> DictConfig:
    """The config of a combination, every size limited; taps are as many as the decoder has token skips."""
    # composing takes long: each file once, not each combination
    settings = SETTINGS.get((which.encoder, which.dims), ())
    cfg = composed("encoder", which.encoder, *settings, *overrides).copy()
    cfg.completion = composed("completion", which.completion).completion
    cfg.decoder = composed("decoder", which.decoder).decoder
    for group, limits in LIMITS.items():
        shrink(cfg[group], limits)
    if "taps" in cfg.encoder:
        # with a pyramid, so that every decoder can be asked
        size, patch_size = tuple(which.image_size), patch_sizes(cfg.encoder.patch_size, num_axes=which.dims)
        spec = FeatureSpec(size, CHANNELS, patch_size, cfg.encoder.dim, 1, pyramid_channels=(4,))
        decoder = build(cfg.decoder, key="decoder")(spec=spec, num_classes=CLASSES)
        cfg.encoder.taps = getattr(decoder, "num_skips", 0)
    return cfg


def little_network(which: Combination, *overrides: str, seed: int = 0) -> Segmenter:
    """The network of a combination, as `network_of_config` makes it."""
    return network_of_config(little_config(which, *overrides), image_size=which.image_size, seed=seed)


def network_of_config(cfg: DictConfig, *, image_size: Sequence[int], seed: int = 0) -> Segmenter:
    """The network of a config in evaluation mode, on the default device.

    Noise is added to every trained parameter: tokens and biases that start at zero would hide mistakes.
    """
    torch.manual_seed(seed)
    sizes = {"image_size": image_size, "in_channels": CHANNELS, "num_classes": CLASSES}
    network = Segmenter(
        encoder=build(cfg.encoder, key="encoder", **sizes),
        completion=build(cfg.completion, key="completion"),
        decoder=build(cfg.decoder, key="decoder"),
        num_classes=CLASSES,
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return network.eval()


def little_criterion(cfg: DictConfig) -> Criterion:
    """The loss of a config, for `CLASSES` classes."""
    return build(cfg.loss, key="loss", outputs=numbered(CLASSES))


def little_batch(which: Combination, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Noise images (2, C, *S) and labels (2, *S)."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, CHANNELS, *which.image_size, generator=generator)
    return image, torch.randint(CLASSES, (2, *which.image_size), generator=generator)
