"""An experiment as one object: its config, and the data set and network that are built from it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sct.config.check import build as build_part
from sct.config.check import check_config
from sct.config.command import compose_checked
from sct.config.schema import ProfileConfig
from sct.config.trust import Trust
from sct.data.module import SegmentationData
from sct.inference import Inferer
from sct.models.segmenter import Segmenter
from sct.profiling.windows import sample_windows
from sct.runs.build import build_criterion, build_inferer, build_segmenter, use_found

if TYPE_CHECKING:  # the import takes time, and a prediction needs no profile
    from sct.profiling.profile import Profile


class Experiment:
    """A config with its data set and inferer; network and loss are built when they are first used.

    config: resolved, as `-c job` prints it; device: device of the network; trust: packages whose code the config may
    name.
    The network of an experiment is untrained; `Run` is an experiment with trained weights.
    """

    def __init__(self, config: DictConfig, *, data: SegmentationData, device: torch.device, trust: Trust) -> None:
        self.config, self.data, self.device, self.trust = config, data, device, trust
        # predicts whole images from windows; built here, so that a mistake in its settings shows before any computation
        self.inferer: Inferer = build_inferer(config, trust=trust)

    @cached_property
    def network(self) -> Segmenter:
        """Encoder, completion and decoder, with the first weights of a training with this seed."""
        torch.manual_seed(self.config.seed)
        return build_segmenter(self.config, data=self.data, trust=self.trust).to(self.device)

    @cached_property
    def criterion(self) -> nn.Module:
        """(Prediction, target, image=image) -> the loss of a training step and its parts."""
        return build_criterion(self.config, data=self.data, trust=self.trust)

    def profile(
        self, *, latency: bool = True, training: bool = True, windows: int = 0, convention: str = "fvcore"
    ) -> Profile:
        """Measures the costs of the network: parameters, MACs, tokens alive, and with `latency` time and memory.

        training: measure a training step too; windows: number of windows of the validation cases to use instead of
        noise; a method that keeps a different number of tokens for each image needs them; convention: how MACs are
        counted (fvcore, paper, modules). `print(profile.table())` prints the same table as `sct.profile`.
        """
        settings = ProfileConfig(latency=latency, training=training, windows=windows, convention=convention)
        # a training step changes the weights, so a copy is measured
        return self.measure(settings, network=copy.deepcopy(self.network))

    def measure(
        self, settings: ProfileConfig, *, network: Segmenter | None = None, trace_dir: Path | None = None
    ) -> Profile:
        """The profile with all settings of the `profile` section; changes the weights of the measured network.

        network: the network to measure, by default the experiment's; trace_dir: folder for `settings.trace`.
        """
        from sct.profiling.segmenter import profile_segmenter

        network = self.network if network is None else network
        device = self.device
        if not settings.latency and not network.encoder.by_image:
            # the costs depend on shapes only: nothing is computed
            device = torch.device("meta")
        return profile_segmenter(
            network,
            image_shape=(self.data.num_channels, *self.data.roi_size),
            criterion=self.criterion,
            make_optimizer=build_part(self.config.optimizer, key="optimizer", trust=self.trust),
            settings=settings,
            device=device,
            trace_dir=trace_dir,
            windows=sample_windows(self.data, count=settings.windows, split=settings.split)
            if settings.windows
            else None,
        )


def from_config(config: DictConfig, *, device: torch.device) -> Experiment:
    """The experiment of a composed config; UserError at the first mistake in the config."""
    trust = Trust.of_command(config)
    check_config(config, trust=trust)
    use_found(config)
    return Experiment(config, data=build_part(config.data, key="data", trust=trust), device=device, trust=trust)


def from_name(experiment: str | None, *, overrides: Sequence[str], device: torch.device) -> Experiment:
    """The experiment that `sct.train +experiment=NAME OVERRIDES` would train."""
    chosen = [] if experiment is None else [f"+experiment={experiment}"]
    config = compose_checked("train", overrides=[*chosen, *overrides])
    OmegaConf.resolve(config)
    return from_config(config, device=device)
