"""Deep supervision: the weights of the levels, the labels at their resolution, and the sum of their losses."""

import pytest
import torch
from test_criterion import SIZE, B, Mean, Q, everything

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, numbered
from sct.losses.criterion import Criterion
from sct.losses.deep import level_weights, sampled


def test_the_weights_halve_and_sum_to_one():
    assert level_weights(1) == [1]
    assert level_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_labels_of_the_middle_of_every_block():
    labels = torch.arange(2 * 4 * 6).reshape(2, 4, 6)
    assert torch.equal(sampled(labels, (4, 6)), labels)
    assert torch.equal(sampled(labels, (2, 2))[0], torch.tensor([[7, 10], [19, 22]]))
    assert torch.equal(sampled(labels, (2, 2))[1], torch.tensor([[31, 34], [43, 46]]))


class Recording(Mean):
    """Keeps what it is asked; the loss is the mean of the logits."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, logits, target, known=None):
        self.asked.append((logits, target, known))
        return super().forward(logits, target)


def test_levels_share_the_weight_of_the_head():
    prediction, labels = everything()  # logits 2 everywhere
    pixel = Recording()
    criterion = Criterion(outputs=numbered(Q), pixel=pixel, gate_weight=0.0, early_weight=0.0, auxiliary_weight=0.0)
    image = torch.zeros(B, 1, SIZE, SIZE)
    before = criterion(prediction, labels, image=image)
    assert "levels" not in before
    pixel.asked.clear()
    prediction.levels = [torch.full((B, Q, 2, 2), 16.0), torch.full((B, Q, 1, 1), 32.0)]
    parts = criterion(prediction, labels, image=image)
    assert parts["levels"].item() == pytest.approx(16 * 2 / 7 + 32 / 7)
    assert parts["pixel"].item() == before["pixel"].item() == 2, "the loss of full resolution alone"
    expected = before["loss"].item() - 2 + (4 * 2 + 2 * 16 + 32) / 7
    assert parts["loss"].item() == pytest.approx(expected)
    judged = {logits.shape[2:]: target for logits, target, _ in pixel.asked}
    assert torch.equal(judged[2, 2], labels[:, 1::2, 1::2])
    assert torch.equal(judged[1, 1], labels[:, 2::4, 2::4])


def test_voxels_to_ignore_count_in_no_level():
    prediction, labels = everything()
    outputs = Classes(LabelMap(("background", "a", "b"), has_ignored=True))
    labels[:, 1, 1] = Q
    pixel = Recording()
    prediction.levels = [torch.zeros(B, Q, 2, 2)]
    Criterion(outputs=outputs, pixel=pixel)(prediction, labels, image=torch.zeros(B, 1, SIZE, SIZE))
    (known,) = [known for logits, _, known in pixel.asked if logits is prediction.levels[0]]
    assert torch.equal(known, torch.tensor([[False, True], [True, True]]).expand(B, 2, 2))
