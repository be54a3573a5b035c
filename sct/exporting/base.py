"""The interface of export formats, as the export command and prediction use it.

Letters: B batch, C channels, Q channels of the logits, S size of the window (2 or 3 dims).
"""

import importlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from omegaconf import DictConfig
from torch import Tensor

from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.inference import Model
from sct.models.segmenter import Segmenter
from sct.runtime.extras import install_command

INPUT, OUTPUT = "image", "logits"


@dataclass(frozen=True)
class Source:
    """What a format needs of a trained run: the network in evaluation mode on the CPU, its data set and its config.

    batch: windows in one call, None for any number; half: store weights in 16 bits if the format can; authors: names
    for formats that name the authors; postprocessing: steps by class, which follow the network;
    look: settings of the first look for formats that take it along, empty: all windows are predicted.
    """

    network: Segmenter
    data: SegmentationData
    config: DictConfig
    batch: int | None = None
    half: bool = False
    authors: str = "not named"
    postprocessing: dict[str, Any] = field(default_factory=dict)
    look: dict[str, float] = field(default_factory=dict)

    @property
    def window(self) -> tuple[int, ...]:
        """Channels and size of a window: (C, *S)."""
        return (self.data.num_channels, *self.data.roi_size)


class Format(ABC):
    """An export format.

    name: its value of `format=` and `backend=`; files: what it loads, below its folder; packages: required packages
    beside torch, all in the extra with the format's name; fixed_graph: it records one run of the network, so the work
    must not depend on the image's content; precisions: number formats of its runtime; holds_half: it can store weights
    in 16 bits.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    fixed_graph: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    holds_half: ClassVar[bool] = False

    @abstractmethod
    def write(self, folder: Path, *, source: Source) -> None:
        """Writes the network into an existing folder."""

    @abstractmethod
    def load(self, folder: Path, *, device: torch.device, precision: str, batch: int | None) -> Model:
        """Loads the network from `folder`: windows (B, C, *S) -> logits (B, Q, *S); `batch` as it was written."""

    def require(self) -> None:
        """UserError if a package is missing."""
        for package in self.packages:
            self.package(package)

    def package(self, name: str) -> ModuleType:
        """Imports a package of the extra; UserError with the install command if it is missing."""
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise UserError(
                f"{self.name} needs the package {name}, which is not installed. Install it with: "
                f"{install_command(self.name)}"
            ) from error


def in_batches(model: Model, *, batch: int | None) -> Model:
    """Makes a model for exactly `batch` windows usable for any number: the last call is filled up with copies."""
    if batch is None:
        return model

    def run(windows: Tensor) -> Tensor:
        parts = []
        for part in windows.split(batch):
            missing = batch - part.shape[0]
            filled = torch.cat([part, part[:1].expand(missing, *part.shape[1:])]) if missing else part
            parts.append(model(filled)[: part.shape[0]])
        return torch.cat(parts)

    return run


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Within the block, the named loggers show errors only, and deprecation warnings are hidden."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
