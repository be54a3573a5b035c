"""nnU-Net's plain U-Net: what the package of its networks is asked for. The package is not among the tested ones."""

import sys
from types import ModuleType

import pytest
from torch import nn

from sct.errors import UserError
from sct.models.base import ImageOnly
from sct.models.decoders.nnunet import NnUNet


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """The arguments with which networks are made."""
    calls: list[tuple] = []

    class PlainConvUNet(nn.Module):
        def __init__(self, *arguments, **settings) -> None:
            super().__init__()
            calls.append(arguments)
            self.decoder = nn.Module()
            self.decoder.seg_layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(arguments[1] - 1))

    names = ["dynamic_network_architectures", "dynamic_network_architectures.architectures"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    unet = ModuleType("unet")
    unet.PlainConvUNet = PlainConvUNet
    monkeypatch.setitem(sys.modules, f"{names[-1]}.unet", unet)
    return calls


def network(size, **settings):
    spec = ImageOnly(image_size=size, in_channels=1, num_classes=3, overlapping=False).spec
    return NnUNet(spec=spec, num_classes=3, **settings)


def test_all_stages_halve_all_axes(asked):
    network([128, 128, 128])
    assert asked[0][5] == [[1, 1, 1], *[[2, 2, 2]] * 5]
    with pytest.raises(UserError, match=r"data.roi_size=\[112, 112, 128\] must be divisible by \[32, 32, 32\]"):
        network([112, 112, 128])


def test_the_last_stage_leaves_short_axes(asked):
    network([112, 112, 128], last_stride=[1, 1, 2])
    assert asked[0][5] == [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 1, 2]]
    with pytest.raises(UserError, match=r"must be divisible by \[16, 16, 32\]"):
        network([112, 112, 112], last_stride=[1, 1, 2])


@pytest.mark.parametrize("stride", [[1, 2], [1, 1, 3]])
def test_a_stride_that_makes_no_sense_is_refused(asked, stride):
    with pytest.raises(UserError, match=r"model.last_stride=\[1, .*must be 3 numbers that are 1 or 2"):
        network([128, 128, 128], last_stride=stride)
