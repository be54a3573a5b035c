"""The loss of a first look: every organ counts alike, and so does the background."""

import math

import pytest
import torch

from sct.losses.look import look_loss
from sct.models.look import FirstLook
from sct.models.tokens import FeatureSpec
from sct.models.worth import class_counts


def minus_log(probability):
    return -math.log(probability)


def logit(probability):
    return math.log(probability / (1 - probability))


def test_by_hand():
    """Four patches: background alone, a corner of organ 1, the rest of organ 1, organ 2."""
    probabilities = [0.2, 0.9, 0.6, 0.3]
    logits = torch.tensor([[logit(p) for p in probabilities]])
    counts = torch.tensor([[[8, 0, 0], [6, 2, 0], [2, 6, 0], [7, 0, 1]]]).float()
    organ_1 = (2 * minus_log(0.9) + 6 * minus_log(0.6)) / 8
    want = ((organ_1 + minus_log(0.3)) / 2 + minus_log(0.8)) / 2
    assert look_loss(logits, counts).item() == pytest.approx(want, rel=1e-6)


def test_organs_that_a_batch_lacks_and_patches_that_do_not_count_say_nothing():
    logits, counts = torch.randn(2, 5), torch.zeros(2, 5, 3)
    counts[0, 0, 1], counts[1, 2, 0] = 4, 8
    want = (torch.nn.functional.softplus(-logits[0, 0]) + torch.nn.functional.softplus(logits[1, 2])) / 2
    torch.testing.assert_close(look_loss(logits, counts), want)
    assert look_loss(logits, torch.zeros_like(counts)).item() == 0


def test_a_look_learns_where_organs_are():
    """Organs of one voxel in patches that no single statistic tells: bright ones that have a dark neighbour."""
    torch.manual_seed(0)
    spec = FeatureSpec(image_size=(16, 16), in_channels=1, patch_size=(4, 4), dim=8, num_heads=1)
    look = FirstLook(spec=spec, patch_size=4, dim=16, depth=1)
    optimizer = torch.optim.Adam(look.parameters(), lr=1e-2)

    def draw():
        bright = torch.rand(32, 4, 4) < 0.3
        dark = (torch.rand(32, 4, 4) < 0.3) & ~bright
        organ = bright & (torch.nn.functional.max_pool2d(dark.float(), 3, stride=1, padding=1) > 0)
        image = (bright.float() - dark.float()).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        labels = torch.zeros(32, 16, 16, dtype=torch.long)
        labels[:, 1::4, 2::4] = organ.long()
        return image.unsqueeze(1), class_counts(labels, patch_size=(4, 4), num_values=2), organ

    for _ in range(150):
        image, counts, _ = draw()
        loss = look_loss(look(image).flatten(1), counts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    image, _, organ = draw()
    assert ((look(image) > 0) == organ).float().mean() > 0.95


def test_counts_are_of_each_value_within_the_image():
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (2, 7, 5, 6))  # 4 is not counted
    counts = class_counts(labels, patch_size=(4, 3, 2), num_values=4)
    assert counts.shape == (2, 2 * 2 * 3, 4)
    grid = counts.reshape(2, 2, 2, 3, 4)
    for value in range(4):
        assert grid[1, 0, 1, 2, value] == (labels[1, 0:4, 3:5, 4:6] == value).sum()
        assert grid[..., value].sum() == (labels == value).sum()
