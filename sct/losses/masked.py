"""The loss of masked autoencoders (MAE): how well the patches that the encoder did not see are predicted.

Letters: B batch, N tokens of the grid, C channels of the image, S spatial size, V voxels of a patch,
H hidden patches of a batch.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sct.config.parts import part
from sct.models.grid import patches
from sct.models.hidden import hidden_patches
from sct.models.tokens import Prediction

# added to the variance of a patch, as in MAE's program
EPS = 1e-6


class Squares(NamedTuple):
    """Sums over the values of hidden patches: of squared errors, of squared targets, and how many values there are."""

    errors: Tensor
    targets: Tensor
    number: int


@part
class Masked(nn.Module):
    """Mean squared error of the hidden patches, each normalised by its own mean and standard deviation.

    Hidden are the places without a token at the end of the encoder. A channel of a patch is normalised by itself, so
    that every modality counts alike; with one channel it is MAE's `norm_pix_loss` (He et al., "Masked Autoencoders Are
    Scalable Vision Learners", section 4). Labels are not used.

    needs_labels: read before the loss is built, see `build_criterion`
    """

    needs_labels: ClassVar[bool] = False

    def __init__(self) -> None:  # the check of a config reads it in the source: there are no settings
        super().__init__()

    def forward(self, prediction: Prediction, target: Tensor, *, image: Tensor) -> dict[str, Tensor]:
        """Prediction with logits (B, C, *S) for image (B, C, *S) -> {"loss"}; `target`, labels (B, *S), is not used."""
        squares = self.squares(prediction, image)
        return {"loss": squares.errors / squares.number}

    def squares(self, prediction: Prediction, image: Tensor) -> Squares:
        """The sums of a prediction for image (B, C, *S), in float32."""
        hidden = hidden_patches(prediction.encoded)
        expected = normalised(per_channel(image, grid=prediction.encoded.grid)[hidden])
        predicted = per_channel(prediction.logits, grid=prediction.encoded.grid)[hidden]
        with torch.autocast(image.device.type, enabled=False):
            errors = (predicted.float() - expected).square().sum()
        return Squares(errors, expected.square().sum(), expected.numel())


def per_channel(x: Tensor, *, grid: tuple[int, ...]) -> Tensor:
    """An image (B, C, *S) as its patches, channel by channel: (B, N, C, V)."""
    size = [length // places for length, places in zip(x.shape[2:], grid, strict=True)]
    return patches(x, size=size).unflatten(2, (x.shape[1], -1))


def normalised(values: Tensor) -> Tensor:
    """Patches (H, C, V), float32, with mean 0 and variance 1 over their voxels; a constant patch is 0."""
    values = values.float()
    variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
    return (values - mean) / (variance + EPS).sqrt()
