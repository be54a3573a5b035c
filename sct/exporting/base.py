"""What every format is to the command that exports and to prediction.

Letters: B batch, C channels, Q channels of the logits, S size of the window (2 or 3 dims).
"""

import importlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import torch
from omegaconf import DictConfig
from torch import Tensor

from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.inference import Model
from sct.models.segmenter import Segmenter

INPUT, OUTPUT = "image", "logits"


@dataclass(frozen=True)
class Source:
    """A trained run as a format sees it: the network in evaluation mode on the CPU, its data set and its config.

    batch: windows in one call, None for any number; half: store weights in 16 bits where the format can; authors: who
    signs where the format wants a name.
    """

    network: Segmenter
    data: SegmentationData
    config: DictConfig
    batch: int | None = None
    half: bool = False
    authors: str = "not named"

    @property
    def window(self) -> tuple[int, ...]:
        """Channels and size of a window: (C, *S)."""
        return (self.data.num_channels, *self.data.roi_size)


class Format(ABC):
    """One form in which a network leaves this project.

    name: its value of `format=` and `backend=`; packages: what it needs beside torch, all in the extra of its name;
    fixed_graph: it records one run of the network, so that nothing may depend on what is in the image;
    precisions: what its runtime can compute in; holds_half: it can store weights in 16 bits.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    fixed_graph: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    holds_half: ClassVar[bool] = False

    @abstractmethod
    def write(self, folder: Path, *, source: Source) -> None:
        """Write the network into a folder that exists."""

    @abstractmethod
    def load(self, folder: Path, *, device: torch.device, precision: str, batch: int | None) -> Model:
        """What `write` wrote, as windows (B, C, *S) -> logits (B, Q, *S); `batch` is what it was written for."""

    def require(self) -> None:
        """UserError where a package is missing."""
        for package in self.packages:
            self.package(package)

    def package(self, name: str) -> ModuleType:
        """A package of the extra; UserError that names the install command where it is missing."""
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise UserError(
                f"{self.name} needs the package {name}, which is not installed. Install it with: "
                f"pip install -c constraints.txt -e '.[{self.name}]'"
            ) from error


def in_batches(model: Model, *, batch: int | None) -> Model:
    """A model for exactly `batch` windows at a time as one for any number: the last call is filled up."""
    if batch is None:
        return model

    def run(windows: Tensor) -> Tensor:
        parts = []
        for part in windows.split(batch):
            lack = batch - part.shape[0]
            filled = torch.cat([part, part[:1].expand(lack, *part.shape[1:])]) if lack else part
            parts.append(model(filled)[: part.shape[0]])
        return torch.cat(parts)

    return run


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Within the block, loggers tell errors alone, and what torch warns itself of is not shown."""
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
