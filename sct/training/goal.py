"""What a training is for: to segment, or to reconstruct hidden patches of images without labels.

Letters: B batch, C channels, S spatial size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sct.config.check import nearest
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.evaluation.tokens import alive_spread, alive_tokens, method_numbers, token_statistics
from sct.inference import Inferer
from sct.losses.masked import Masked
from sct.models.hidden import check_hidden
from sct.models.segmenter import Segmenter
from sct.models.tokens import Prediction
from sct.profiling.windows import all_windows
from sct.runtime.distributed import Processes
from sct.runtime.precision import autocast
from sct.runtime.signals import Ending
from sct.training.validation import MEAN, over_cases, sample_overlay, validate

EXPLAINED, ERROR = "val/explained", "val/masked_error"


class Goal(ABC):
    """How a network is judged while it is trained."""

    def __init__(self, data: SegmentationData) -> None:
        self.data = data

    @property
    @abstractmethod
    def scores(self) -> list[str]:
        """Names of the scores of a validation by which the best weights can be chosen; higher is better."""

    def check_best_metric(self, name: str) -> None:
        """UserError unless `name` is a score of the validation."""
        if name not in self.scores:
            raise UserError(f"trainer.best_metric={name} is not measured. {nearest(name, self.scores)}")

    @abstractmethod
    def statistics(self, prediction: Prediction, label: Tensor, *, network: Segmenter) -> dict[str, float]:
        """What a training step with labels (B, *S) logs of the tokens, by name."""

    @abstractmethod
    def validate(
        self, network: Segmenter, *, inferer: Inferer, processes: Processes, dtype: torch.dtype, ending: Ending
    ) -> dict[str, float]:
        """Scores of the validation cases by name."""

    @abstractmethod
    def pictures(self, network: Segmenter, *, device: torch.device) -> Mapping[str, np.ndarray]:
        """Pictures (H, W, 3) uint8 for TensorBoard, by name."""

    @abstractmethod
    def next_command(self, run: Path) -> str:
        """What a finished run is for, as one line."""


class Segmentation(Goal):
    """To predict the labels: judged by Dice."""

    @property
    def scores(self) -> list[str]:
        return [MEAN, *(f"val/dice/{scored}" for scored in self.data.outputs.names)]

    def statistics(self, prediction: Prediction, label: Tensor, *, network: Segmenter) -> dict[str, float]:
        outputs, patch_size = self.data.outputs, network.encoder.spec.patch_size
        return token_statistics(prediction, outputs.label_map.cleared(label), patch_size=patch_size, outputs=outputs)

    def validate(
        self, network: Segmenter, *, inferer: Inferer, processes: Processes, dtype: torch.dtype, ending: Ending
    ) -> dict[str, float]:
        return validate(network, data=self.data, inferer=inferer, processes=processes, dtype=dtype, ending=ending)

    def pictures(self, network: Segmenter, *, device: torch.device) -> Mapping[str, np.ndarray]:
        return {"val/overlay": sample_overlay(network, data=self.data, device=device)}

    def next_command(self, run: Path) -> str:
        return f"evaluate with  python -m sct.eval ckpt={run}"


class Reconstruction(Goal):
    """To predict the voxels of hidden patches: judged by the loss on windows of the validation images, side by side.

    `val/masked_error` is the mean squared error of normalised voxels. `val/explained` is the share of their variance
    that is predicted: 1 of a perfect prediction, 0 of one that knows the mean of each patch alone. Constant patches
    have no variance, and count in neither as something that is explained.

    Raises `UserError` where the network sees what it is to predict.
    """

    def __init__(self, data: SegmentationData, *, network: Segmenter, loss: Masked) -> None:
        super().__init__(data)
        check_hidden(network)
        self.loss = loss

    @property
    def scores(self) -> list[str]:
        return [EXPLAINED]

    def statistics(self, prediction: Prediction, label: Tensor, *, network: Segmenter) -> dict[str, float]:
        encoded = prediction.encoded
        spread = alive_spread(encoded.alive[: encoded.num_depths])
        return {**alive_tokens(prediction), **spread, **method_numbers(prediction)}

    @torch.no_grad()
    def validate(
        self, network: Segmenter, *, inferer: Inferer, processes: Processes, dtype: torch.dtype, ending: Ending
    ) -> dict[str, float]:
        network.eval()
        device, size = processes.device, self.data.roi_size
        at_once = inferer.windows_at_once(size, device=device)

        def sums(image: Tensor) -> np.ndarray:
            """Squared errors, squared targets and number of values of the hidden patches of an image (C, *S)."""
            total = np.zeros(3)
            for windows in torch.stack(list(all_windows(image, size=size, overlap=0.0))).split(at_once):
                batch = windows.to(device)
                with autocast(device, dtype):
                    prediction = network.predict(batch)
                total += [float(value) for value in self.loss.squares(prediction, batch)]
            return total

        rows = over_cases(lambda case: sums(self.data.load_case(case).image), self.data, processes, ending)
        errors, targets, count = np.sum([rows[case] for case in sorted(rows)], axis=0)
        return {EXPLAINED: float(1 - errors / targets), ERROR: float(errors / count)}

    def pictures(self, network: Segmenter, *, device: torch.device) -> Mapping[str, np.ndarray]:
        return {}

    def next_command(self, run: Path) -> str:
        return f"train from it with  python -m sct.train +experiment=NAME init={run}"


def goal_of(data: SegmentationData, *, network: Segmenter, criterion: nn.Module) -> Goal:
    """Segmentation, or reconstruction of images without labels."""
    if data.labelled:
        return Segmentation(data)
    assert isinstance(criterion, Masked), "`build_criterion` gives a loss of labels to no images without labels"
    return Reconstruction(data, network=network, loss=criterion)
