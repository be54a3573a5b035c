"""The loss of this project for nnU-Net's batches.

Letters: B batch, R regions, Q channels of the logits, S spatial size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sct.data.outputs import Outputs
from sct.data.sets.nnunet_description import described_outputs
from sct.losses.criterion import Criterion
from sct.models.tokens import Prediction

# what nnU-Net calls the label that counts in no loss
IGNORE = "ignore"


def outputs_of(dataset_json: Mapping[str, Any]) -> Outputs:
    """What the logits are, of nnU-Net's dataset.json."""
    return described_outputs(dataset_json, path=Path("dataset.json"), ignore=IGNORE)


class Loss(nn.Module):
    """What a network's output is judged by: all terms in training, the pixels alone in validation."""

    def __init__(self, criterion: Criterion) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, output: Prediction | Tensor, target: Tensor) -> Tensor:
        """output: of the network, in validation logits (B, Q, *S); target: see `labels_of` -> scalar."""
        outputs = self.criterion.outputs
        labels = labels_of(target, outputs=outputs)
        if isinstance(output, Prediction):
            # the image is for a teacher, which nnU-Net's trainers do not have
            return self.criterion(output, labels, image=labels)["loss"]
        known, labels = outputs.label_map.known(labels), outputs.label_map.cleared(labels)
        return self.criterion.judge(None, labels, known=known, logits=output)["loss"]


def labels_of(target: Tensor, *, outputs: Outputs) -> Tensor:
    """Labels (B, *S) of nnU-Net's target: labels (B, 1, *S), or masks of regions (B, R, *S).

    Behind the masks of regions there may be one more, of the voxels to ignore. Label values that are in the same
    regions are one.
    """
    if not outputs.overlapping:
        return target[:, 0].long()
    values = torch.arange(len(outputs.label_map), device=target.device)
    members = outputs.targets(values.unsqueeze(0))[0].T  # (values, R)
    masks = target[:, : outputs.num_channels].bool()
    labels = torch.zeros_like(masks[:, 0], dtype=torch.long)
    for value, own in enumerate(members):
        shape = (1, -1, *[1] * (masks.ndim - 2))
        labels[(masks == own.view(shape)).all(dim=1)] = value
    if outputs.label_map.ignored is not None:
        labels[target[:, outputs.num_channels].bool()] = outputs.label_map.ignored
    return labels
