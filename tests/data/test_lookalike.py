"""Look-alike organs differ in the side of their slab, and in nothing that convolutions or norms could use."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sct.data.phantoms.lookalike import NAMES, ORGAN_HU, PITCH, SLAB_HU, draw
from sct.errors import UserError
from sct.models.completion.scatter import Scatter
from sct.models.decoders.unetr import UNETR
from sct.models.encoder import ViTEncoder
from sct.models.segmenter import Segmenter

SHAPE, VOXEL = (24, 64, 64), (2.0, 2.0, 2.0)


def phantom(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and where the slabs are."""
    image, label = draw(shape=SHAPE, voxel_size=VOXEL, rng=np.random.default_rng(seed))
    return image, label, image > (SLAB_HU + 40) / 2


def test_the_seed_decides_every_voxel() -> None:
    one, again, other = phantom(0), phantom(0), phantom(1)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[1], other[1])
    assert one[0].dtype == np.float32
    assert one[1].dtype == np.uint8


def test_the_class_is_the_side_and_every_line_of_an_organ_meets_its_slab() -> None:
    _, label, slab = phantom()
    x = np.arange(SHAPE[0])[:, None, None]
    held = label.max(0)
    assert np.unique(held).tolist() == [0, *range(1, 1 + len(NAMES))]
    assert np.array_equal(held > 0, slab.any(0))
    lines = held > 0
    organ_x = np.where(label > 0, x, 0).sum(0)[lines] / (label > 0).sum(0)[lines]
    slab_x = np.where(slab, x, 0).sum(0)[lines] / slab.sum(0)[lines]
    assert np.array_equal(held[lines] == 1, organ_x < slab_x)


def test_place_size_and_intensity_do_not_tell_the_class() -> None:
    image, label, _ = phantom()
    left, right = label == 1, label == 2
    assert np.array_equal(left.sum((1, 2)), right.sum((1, 2)))
    assert image[left].mean() == pytest.approx(ORGAN_HU, abs=1)
    assert image[right].mean() == pytest.approx(image[left].mean(), abs=1)
    period = int(2 * PITCH[0] / VOXEL[1])
    first = np.concatenate([phantom(seed)[1][:, ::period].max(0).ravel() for seed in range(4)])
    assert (first[first > 0] == 1).mean() == pytest.approx(0.5, abs=0.1)


def test_every_pair_shows_a_norm_the_same_slabs() -> None:
    _, label, slab = phantom()
    bars = (SHAPE[0], -1, int(2 * PITCH[0] / VOXEL[1]), SHAPE[2])
    organ_x = (label.reshape(bars) > 0).any((2, 3)).argmax(0)
    place = slab.reshape(bars).sum(2)
    for pair, start in enumerate(organ_x):
        assert np.array_equal(place[:start, pair].sum(0), place[start:, pair].sum(0))


def test_the_gap_is_wider_than_the_convolutions_reach() -> None:
    _, label, slab = phantom()
    lines = label.max(0) > 0
    gaps = [
        np.abs(np.subtract.outer(np.flatnonzero(o), np.flatnonzero(s))).min()
        for o, s in zip(label[:, lines].T > 0, slab[:, lines].T, strict=True)
    ]
    assert min(gaps) > reach(patch_size=2)


def reach(*, patch_size: int) -> int:
    """Farthest distance along x from which an image voxel changes a logit when there is no transformer."""
    torch.manual_seed(0)
    size = (SHAPE[0] * patch_size, 8 * patch_size, 2 * patch_size)
    encoder = ViTEncoder(
        image_size=size, in_channels=1, patch_size=patch_size, dim=8, depth=1, num_heads=1, transformer=False
    )
    network = Segmenter(
        encoder=encoder, completion=Scatter, decoder=partial(UNETR, feature_size=2), num_classes=3
    ).double()
    # Instance norms spread statistics over the whole crop; they are balanced by pairs, not by distance.
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.InstanceNorm3d):
                setattr(module, name, nn.Identity())
    farthest = 0
    for centre in range(size[0] // 2, size[0] // 2 + patch_size):
        image = torch.randn(1, 1, *size, dtype=torch.double, requires_grad=True)
        network.eval()(image)[0, :, centre].abs().sum().backward()
        seen = image.grad.abs().amax((0, 1, 3, 4)).nonzero().flatten()
        assert seen.min() > 0
        assert seen.max() < size[0] - 1
        farthest = max(farthest, int((seen - centre).abs().max()))
    return farthest


def test_too_small_a_volume_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.shape=\[16, 64, 64\].*needs at least \[40.0, 16.0, 16.0\] mm"):
        draw(shape=[16, 64, 64], voxel_size=VOXEL, rng=np.random.default_rng(0))
