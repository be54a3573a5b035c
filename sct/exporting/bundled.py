"""Classes and functions that the config of a MONAI Bundle names: loading weights, finding images, predicting them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sct.data.cases import Case
from sct.data.module import SegmentationData
from sct.inference import Inferer
from sct.inference.cases import Turn, predict_cases
from sct.inference.inputs import find_inputs, label_paths
from sct.inference.look import Look
from sct.inference.postprocess import from_settings
from sct.runtime import checkpoint


def with_weights(network: nn.Module, *, path: str, device: torch.device | str) -> nn.Module:
    """Loads the weights of a file into the network; returns the network in evaluation mode."""
    checkpoint.load_weights(network, checkpoint.read(Path(path)), source=path)
    return network.to(device).eval()


class Volumes(Sequence[Case]):
    """One image, or all images of a folder, in the data set's format; they are checked at the first access."""

    def __init__(self, *, path: str, data: SegmentationData) -> None:
        self.path, self.data = path, data
        self._cases: list[Case] | None = None

    @property
    def cases(self) -> list[Case]:
        if self._cases is None:
            self._cases = find_inputs(Path(self.path), file_format=self.data.format)
            self.data.check_files(self._cases)
        return self._cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number):
        return self.cases[number]


class Predictor:
    """Writes a label map for every image; images are never overwritten."""

    def __init__(
        self,
        *,
        network: nn.Module,
        dataset: Volumes,
        inferer: Inferer,
        output: str,
        device: torch.device | str,
        postprocessing: dict[str, Any] | None = None,
        look: dict[str, Any] | None = None,
    ) -> None:
        self.look = Look(**look) if look else None
        self.network, self.dataset, self.inferer = network, dataset, inferer
        self.output, self.device = Path(output), torch.device(device)
        self.postprocessing = from_settings(
            postprocessing, outputs=dataset.data.outputs, source="evaluator#postprocessing of this bundle"
        )

    def run(self) -> list[Path]:
        """Predicts all images; returns the written files."""
        paths = label_paths(self.dataset, output=self.output, file_format=self.dataset.data.format)
        return predict_cases(
            [Turn(case, paths[case.name]) for case in self.dataset],
            total=len(self.dataset),
            data=self.dataset.data,
            load=lambda: (self.network, torch.float32),
            inferer=self.inferer,
            device=self.device,
            postprocessing=self.postprocessing,
            look=self.look,
        )
