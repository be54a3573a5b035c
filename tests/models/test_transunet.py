"""TransUNet as published, R50 + ViT-B/16 and CUP: its parameters and its cost."""

import pytest
import torch

from sct.models.completion.scatter import Scatter
from sct.models.decoders.cup import CUP
from sct.models.encoder import ViTEncoder
from sct.models.segmenter import Segmenter
from sct.models.stems.resnet import ResNetStem
from sct.profiling.macs import count_macs, count_parameters

SIZE, CLASSES = 224, 9


@pytest.fixture(scope="module")
def transunet():
    with torch.device("meta"):
        encoder = ViTEncoder(
            image_size=(SIZE, SIZE),
            in_channels=3,
            patch_size=16,
            dim=768,
            depth=12,
            num_heads=12,
            class_token=False,
            stem=ResNetStem,
        )
        return Segmenter(encoder=encoder, completion=Scatter, decoder=CUP, num_classes=CLASSES)


def test_parameters_of_the_paper(transunet):
    assert count_parameters(transunet) / 1e6 == pytest.approx(105.3, rel=5e-4)


def stem_macs():
    """Convolutions of the stem at 224: the root, then 1x1, 3x3 and 1x1 of every unit and 1x1 of its shortcut."""
    macs, above, places = 112**2 * 3 * 64 * 49, 64, 56**2
    for width, units, stride in ((64, 3, 1), (128, 4, 2), (256, 9, 2)):
        for unit in range(units):
            # the first convolution still sees the finer map
            macs += places * above * width
            if unit == 0:
                places //= stride**2
                macs += places * above * 4 * width
            macs += places * (9 * width**2 + width * 4 * width)
            above = 4 * width
    return macs


def test_cost_of_the_paper(transunet):
    """The published 24.6 G leave out the stem: counters that go by a layer's class pass by its own convolutions."""
    macs = count_macs(transunet, torch.empty(1, 3, SIZE, SIZE, device="meta"), convention="modules")
    linear = 196 * (1024 * 768 + 12 * 12 * 768**2)
    assert macs["encoder"] == stem_macs() + linear
    assert stem_macs() / 1e9 == pytest.approx(3.93, abs=5e-3)
    assert (macs["total"] - stem_macs()) / 1e9 == pytest.approx(24.6, rel=1e-3)
    assert macs["total"] / 1e9 == pytest.approx(28.54, abs=5e-3)
