"""How the criterion adds up what a prediction is judged by: every term, with its weight."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, numbered
from sct.losses.base import PixelLoss
from sct.losses.criterion import Criterion
from sct.models.tokens import Early, Encoded, HeadOutput, Prediction, Tokens

B, Q, SIZE = 2, 3, 4


class Mean(PixelLoss):
    """A loss whose values are easy to follow: the mean of the logits."""

    overlapping = False

    def forward(self, logits, target):
        assert logits.shape[2:] == target.shape[1:]
        return {"loss": logits.mean(), "own": logits.sum()}

    @staticmethod
    def divergence(logits, teacher):
        return (teacher - logits).mean()


class Known(Mean):
    """The same for data sets that ignore voxels."""

    def forward(self, logits, target, known=None):
        return super().forward(logits, target)

    @staticmethod
    def divergence(logits, teacher, known=None):
        return Mean.divergence(logits, teacher)


class Queries(nn.Module):
    def forward(self, head, target):
        return {"loss": head.classes.mean(), "class": head.classes.sum()}


class Teacher(nn.Module):
    def forward(self, image):
        assert not self.training
        return torch.full((B, Q, SIZE, SIZE), 100.0)


def filled(value, size=2):
    return HeadOutput(torch.full((B, Q, size, size), float(value)))


def everything():
    """A prediction with every kind of term, and labels: one foreground voxel in the first of four patches."""
    tokens = Tokens(torch.zeros(B, 4, 1), torch.arange(4).expand(B, -1))
    encoded = Encoded(
        (2, 2),
        tokens,
        torch.zeros(B, 1, 1),
        gate=torch.randn(B, 2, 2, 2, generator=torch.Generator().manual_seed(0)),
        early=Early(torch.zeros(B, Q, 4), torch.zeros(B, 4, dtype=torch.bool), stages=[filled(3), filled(5)]),
        auxiliary=[filled(7), filled(11), filled(13)],
        losses={"budget": torch.tensor(17.0), "attention": torch.tensor(19.0)},
    )
    labels = torch.zeros(B, SIZE, SIZE, dtype=torch.long)
    labels[:, 0, 1] = 2
    return Prediction(torch.full((B, Q, SIZE, SIZE), 2.0), encoded), labels


def test_every_term_is_added_with_its_weight():
    prediction, labels = everything()
    settings = {"early_weight": 0.5, "auxiliary_weight": 0.25, "gate_weight": 0.3, "distill_weight": 0.125}
    criterion = Criterion(outputs=numbered(Q), pixel=Mean(), **settings)
    criterion.teacher = Teacher().train()
    parts = criterion(prediction, labels, image=torch.zeros(B, 1, SIZE, SIZE))
    is_foreground = torch.tensor([[1, 0], [0, 0]]).expand(B, 2, 2)
    gate = F.cross_entropy(prediction.encoded.gate, is_foreground)
    values = {name: value.item() for name, value in parts.items() if name != "loss"}
    assert values == pytest.approx(
        {
            "own": 2 * B * Q * SIZE**2,
            "pixel": 2,
            "early": 3 + 5,  # the sum of the heads: each at full weight
            "auxiliary": 7 + 11 + 13,
            "gate": gate.item(),
            "budget": 17,
            "attention": 19,
            "distill": 98,
        }
    )
    expected = 2 + 0.5 * 8 + 0.25 * 31 + 0.3 * gate.item() + 17 + 19 + 0.125 * 98
    assert parts["loss"].item() == pytest.approx(expected)


def test_the_weights_of_the_papers_are_the_defaults():
    prediction, labels = everything()
    criterion = Criterion(outputs=numbered(Q), pixel=Mean())
    criterion.teacher = Teacher()
    parts = criterion(prediction, labels, image=torch.zeros(B, 1, SIZE, SIZE))
    assert parts["loss"].item() == pytest.approx(2 + 8 + 31 + 0.1 * parts["gate"].item() + 17 + 19 + 0.5 * 98)


def test_a_first_look_is_added_as_it_is():
    """Patches of a first look may be others than those of the encoder; ignored voxels are of no patch."""
    prediction, labels = everything()
    criterion = Criterion(outputs=Classes(LabelMap(("background", "liver", "aorta"), has_ignored=True)), pixel=Known())
    criterion.teacher = Teacher()
    before = criterion(prediction, labels, image=torch.zeros(B, 1, SIZE, SIZE))
    prediction.look = torch.randn(B, 2, 1, generator=torch.Generator().manual_seed(0))
    labels[0, 2:] = 3  # to be ignored: the second patch of the first image
    # one voxel of label 2 in the first patch of each image; the second patch of the second image is background
    found = prediction.look.double()
    want = (F.softplus(-found[:, 0]).mean() + F.softplus(found[1, 1]).mean()) / 2
    parts = criterion(prediction, labels, image=torch.zeros(B, 1, SIZE, SIZE))
    assert parts["look"].item() == pytest.approx(want.item(), rel=1e-6)
    others = sum(parts[name].item() - before[name].item() for name in ("pixel", "distill"))
    gates = 0.1 * (parts["gate"] - before["gate"]).item()
    assert parts["loss"].item() == pytest.approx(before["loss"].item() + others + gates + want.item())


def test_a_head_of_queries_and_early_heads_of_queries_are_judged_as_queries():
    prediction, labels = everything()
    said = [HeadOutput(torch.zeros(B, Q, 2, 2), torch.full((B, Q, 2), value)) for value in (1.0, 2.0, 4.0)]
    prediction.head, prediction.encoded.early.stages = said[0], said[1:]
    parts = Criterion(outputs=numbered(Q), pixel=Mean(), query=Queries(), early_weight=0.5)(
        prediction, labels, image=torch.zeros(B, 1, SIZE, SIZE)
    )
    assert "pixel" not in parts
    assert parts["early"].item() == 6
    rest = 31 + 0.1 * parts["gate"].item() + 17 + 19
    assert parts["loss"].item() == pytest.approx(1 + 0.5 * 6 + rest)


def test_nothing_but_the_head_where_there_is_nothing_else():
    prediction, labels = everything()
    prediction.encoded = Encoded((2, 2), prediction.encoded.final, torch.zeros(B, 1, 1))
    parts = Criterion(outputs=numbered(Q), pixel=Mean())(prediction, labels, image=torch.zeros(B, 1, SIZE, SIZE))
    assert parts.keys() == {"loss", "own", "pixel"}
    assert parts["loss"] == parts["pixel"]


def test_early_heads_are_interpolated_linearly_to_the_labels():
    prediction, labels = everything()
    masks = torch.randn(B, Q, 2, 2, generator=torch.Generator().manual_seed(1))
    prediction.encoded.early.stages = [HeadOutput(masks)]
    seen = []

    class Seeing(Mean):
        def forward(self, logits, target):
            seen.append(logits)
            return super().forward(logits, target)

    Criterion(outputs=numbered(Q), pixel=Seeing())(prediction, labels, image=torch.zeros(B, 1, SIZE, SIZE))
    expected = F.interpolate(masks, size=(SIZE, SIZE), mode="bilinear")
    assert any(torch.equal(logits, expected) for logits in seen)
