"""Trainers of nnU-Net with networks of this project. Their names begin as nnU-Net's do: it finds them by name.

A trainer of your own is a subclass with other `overrides`, in a folder of your own that nnUNet_extTrainer also names.
"""

import copy
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from sct.config.check import build
from sct.models.segmenter import Segmenter
from sct.nnunet.loss import Loss, outputs_of
from sct.nnunet.network import Described, describe
from sct.training.optim import set_learning_rate

SMALL = ("encoder.dim=396", "encoder.depth=12", "encoder.num_heads=6")
# AdamW as for Primus; the schedule counts nnU-Net's epochs as its steps
RECIPE = (
    "optimizer.lr=3.0e-4",
    "optimizer.betas=[0.9,0.98]",
    "optimizer.layer_decay=1.0",
    "schedule.warmup_steps=50",
)


class nnUNetTrainerSCT(nnUNetTrainer):
    """STP with taught scores, half of the tokens dropped twice, completed by MTA, decoded by `thin`.

    overrides: settings of `sct.train` that make network, loss, optimizer and schedule
    """

    overrides: ClassVar[tuple[str, ...]] = (
        "encoder=stp_taught",
        "completion=mta",
        "decoder=thin",
        "pruning.blocks=[4,8]",
        "pruning.ratio=0.5",
        *SMALL,
        *RECIPE,
    )

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        plans = copy.deepcopy(plans)
        planned = PlansManager(plans).get_configuration(configuration)
        self.described = Described(
            self.overrides,
            image_size=tuple(int(side) for side in planned.patch_size),
            overlapping=outputs_of(dataset_json).overlapping,
        )
        describe(plans, configuration=configuration, described=self.described)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False
        cfg = self.described.config
        self.initial_lr, self.weight_decay = cfg.optimizer.lr, cfg.optimizer.weight_decay

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network that the plans describe."""
        described = Described.read(configuration_manager.network_arch_init_kwargs)
        return described.network(in_channels=num_input_channels, num_classes=num_output_channels)

    def _do_i_compile(self) -> bool:
        # the pruned network is about as fast without, and compiling takes minutes
        return False

    def _build_loss(self) -> nn.Module:
        cfg, outputs = self.described.config, outputs_of(self.dataset_json)
        return Loss(build(cfg.loss, key="loss", outputs=outputs))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, "EpochSchedule"]:
        cfg = self.described.config
        optimizer = build(cfg.optimizer, key="optimizer")(self.segmenter)
        return optimizer, EpochSchedule(optimizer, factor=build(cfg.schedule, key="schedule"), trainer=self)

    @property
    def segmenter(self) -> Segmenter:
        """The network without what wraps it for several processes."""
        return self.network.module if self.is_ddp else self.network

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.segmenter.set_progress(self.current_epoch / self.num_epochs)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """There is none."""


class EpochSchedule:
    """The learning rate of every epoch, as nnU-Net asks for it."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, factor: Any, trainer: nnUNetTrainer) -> None:
        self.optimizer, self.factor, self.trainer = optimizer, factor, trainer

    def step(self, epoch: int) -> None:
        factor = self.factor(epoch, max_steps=self.trainer.num_epochs)
        set_learning_rate(self.optimizer, lr=self.trainer.initial_lr * factor)


class nnUNetTrainerSCTDense(nnUNetTrainerSCT):
    """The same network without pruning."""

    overrides = ("encoder=dense", "completion=scatter", "decoder=thin", *SMALL, *RECIPE)


class nnUNetTrainerSCTPaper(nnUNetTrainerSCT):
    """STP and MTA as published, on ViT-B, with UNETR's decoder."""

    overrides = ("encoder=stp", "completion=mta", "decoder=unetr", *RECIPE)


class nnUNetTrainerSCTPrimus(nnUNetTrainerSCT):
    """Primus-S, whose decoder sees tokens alone."""

    overrides = ("encoder=primus", "completion=scatter", "decoder=primus", *RECIPE)


class nnUNetTrainerSCTPrimusPruned(nnUNetTrainerSCT):
    """Primus-S with half of its tokens dropped twice by taught scores, completed by MTA."""

    overrides = (
        "encoder=stp_taught",
        "+variant=primus",
        "completion=mta",
        "decoder=primus",
        "pruning.blocks=[4,8]",
        "pruning.ratio=0.5",
        *RECIPE,
    )
