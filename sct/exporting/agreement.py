"""How well the output of an exported network agrees with the output of the original.

Letters: B batch, C channels, Q channels of the logits, S size of the window (2 or 3 dims).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sct.data.outputs import Outputs
from sct.inference import Model


@dataclass(frozen=True)
class Agreement:
    """Agreement of two networks.

    windows: number of compared windows; equal_labels: share of their voxels that get the same label;
    largest_difference: largest absolute difference of two logits; largest_logit: largest absolute logit of the
    original, for comparison.
    """

    windows: int
    equal_labels: float
    largest_difference: float
    largest_logit: float

    def __str__(self) -> str:
        return (
            f"{100 * self.equal_labels:.4f} % of the labels of {self.windows} windows are equal, logits of up to "
            f"{self.largest_logit:.3g} differ by at most {self.largest_difference:.2g}"
        )


@torch.no_grad()
def compare(model: Model, original: Model, windows: Tensor, *, outputs: Outputs) -> Agreement:
    """Compares both models on windows (B, C, *S), in one call and again one by one; the worse result counts.

    A value that is not finite counts as an infinite difference.
    """
    truth = original(windows)
    labels = labels_of(truth, outputs=outputs)
    equal, difference = 1.0, 0.0
    for logits in (model(windows), torch.cat([model(window) for window in windows.split(1)])):
        assert logits.shape == truth.shape
        equal = min(equal, (labels_of(logits, outputs=outputs) == labels).double().mean().item())
        difference = max(difference, (logits - truth).abs().nan_to_num(nan=torch.inf).max().item())
    return Agreement(len(windows), equal, difference, truth.abs().max().item())


def labels_of(logits: Tensor, *, outputs: Outputs) -> Tensor:
    """Label values (B, *S) of logits (B, Q, *S)."""
    return torch.stack([outputs.labels(window) for window in logits])
