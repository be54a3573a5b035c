"""A network of this project from what nnU-Net knows: its patch size, and numbers of channels and outputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig

from sct.config.check import build, check_config, read_source
from sct.config.command import compose_config
from sct.config.saved import is_saved
from sct.config.trust import SHIPPED_ALONE
from sct.errors import UserError
from sct.models.segmenter import Segmenter

# the section of nnU-Net's plans that describes a network
SECTION = "architecture"
NAME = "sct.models.segmenter.Segmenter"


@dataclass(frozen=True)
class Described:
    """What a network is built from; nnU-Net's plans keep it, so that prediction builds the same.

    overrides: of the config of `sct.train` · image_size: nnU-Net's patch size, voxels · overlapping: whether the
    outputs are regions
    """

    overrides: tuple[str, ...]
    image_size: tuple[int, ...]
    overlapping: bool

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> "Described":
        """From the arguments of the network in nnU-Net's plans; UserError where they are of another network."""
        if set(kept) != {"overrides", "image_size", "overlapping"}:
            raise UserError(
                f"nnU-Net's plans describe another network (its arguments are {', '.join(sorted(kept))}). Train with a "
                "trainer of this project, or predict with the trainer that trained."
            )
        overrides = tuple(map(str, kept["overrides"]))
        # plans come with the weights, and both may be of a stranger
        if unknown := [override for override in overrides if not is_saved(override)]:
            raise UserError(f"nnU-Net's plans hold {unknown[0]!r}, which is no setting. Take the original.")
        return cls(overrides, tuple(kept["image_size"]), bool(kept["overlapping"]))

    @property
    def config(self) -> DictConfig:
        """The composed config, with a patch that divides the image; its parts are of this project alone."""
        loss = ["loss=dice_bce"] if self.overlapping else []
        cfg = compose_config("train", overrides=[*loss, *self.overrides])
        check_config(cfg, read=read_source, trust=SHIPPED_ALONE)
        cfg.encoder.patch_size = list(fitting_patch(self.image_size, largest=cfg.encoder.patch_size))
        return cfg

    def network(self, *, in_channels: int, num_classes: int) -> Segmenter:
        """The network with random weights."""
        cfg = self.config
        encoder = build(
            cfg.encoder,
            key="encoder",
            image_size=list(self.image_size),
            in_channels=in_channels,
            num_classes=num_classes,
            overlapping=self.overlapping,
        )
        completion, decoder = (build(cfg[key], key=key) for key in ("completion", "decoder"))
        return Segmenter(encoder=encoder, completion=completion, decoder=decoder, num_classes=num_classes)


def describe(plans: dict[str, Any], *, configuration: str, described: Described) -> None:
    """Writes a network into nnU-Net's plans, in place of the one that was planned."""
    plans["configurations"][configuration][SECTION] = {
        "network_class_name": NAME,
        "arch_kwargs": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(described).items()},
        "_kw_requires_import": [],
    }


def fitting_patch(image_size: Sequence[int], *, largest: int | Sequence[int]) -> tuple[int, ...]:
    """Sides of a token's patch: for each axis the largest number that divides both `largest` and the image."""
    sides = [largest] * len(image_size) if isinstance(largest, int) else list(largest)
    if len(sides) != len(image_size):
        raise UserError(
            f"encoder.patch_size={sides} has {len(sides)} numbers, but nnU-Net's patches {list(image_size)} have "
            f"{len(image_size)}. Give one number, or take another configuration."
        )
    return tuple(math.gcd(size, side) for size, side in zip(image_size, sides, strict=True))
