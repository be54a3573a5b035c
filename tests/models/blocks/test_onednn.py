"""Convolutions that go to oneDNN directly give what torch's give, and only where they may."""

import pytest
import torch
from torch import nn

from sct.models.blocks.onednn import Conv3d
from sct.models.blocks.sliced import SameConv3d


@pytest.fixture
def direct(monkeypatch):
    """Shapes of the inputs that went to oneDNN directly."""
    seen, compute = [], torch.mkldnn_convolution
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda x, *rest: seen.append(tuple(x.shape)) or compute(x, *rest))
    return seen


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (1, 1), (2, 2), ((3, 1, 1), 1), ((1, 3, 3), (1, 2, 2))])
@pytest.mark.parametrize("cls", [Conv3d, SameConv3d])
def test_the_result_is_that_of_torch(direct, cls, kernel_size, stride, channels_last):
    torch.manual_seed(0)
    layer = cls(3, 5, kernel_size, stride=stride, padding=1 if kernel_size == 3 else 0).eval()
    x = torch.randn(1, 3, 6, 8, 10)
    if channels_last:
        x = x.to(memory_format=torch.channels_last_3d)
    wanted = nn.Conv3d.forward(layer, x).detach()
    with torch.no_grad():
        found = layer(x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    # a matrix product is faster for single voxels in plain memory
    assert len(direct) == (0 if kernel_size == 1 and not channels_last else 1)


def test_what_onednn_must_not_compute_is_left_to_torch(direct, monkeypatch):
    layer, x = Conv3d(2, 4, 3, padding=1), torch.randn(1, 2, 6, 6, 6)
    layer(x).sum().backward()
    assert not direct, "training"
    with torch.no_grad():
        assert torch.jit.trace(layer, x, check_trace=False)(x).shape == layer(x).shape
        assert direct == [x.shape], "a graph shows what the network is"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert layer(x[0]).shape == (4, 6, 6, 6)
        assert Conv3d(2, 4, 3, padding="same")(x).shape == (1, 4, 6, 6, 6)
        assert Conv3d(2, 4, 3, padding=1, padding_mode="replicate")(x).shape == (1, 4, 6, 6, 6)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        layer(x)
        assert layer.double()(x.double()).dtype == torch.float64
    assert len(direct) == 1
