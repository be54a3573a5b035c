"""Convolutional pieces: shortcuts that give what the long way gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sct.models.convolutions import CHANNELS_LAST, INSTANCE_NORM, FoldedConv


@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 3), (3, 3, 3), (3, 1, 1)])
def test_a_folded_norm_is_the_norm(kernel_size):
    torch.manual_seed(0)
    block, image = FoldedConv(2, 5, kernel_size=kernel_size), torch.randn(3, 2, *[6] * len(kernel_size))
    for norm in (block.norm, block.middle_norm):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    for _ in range(3):
        block(2 * image + 1)  # running means that are not those of the image
    block.eval()
    wanted = F.relu(block.norm(block.convolution(image)) + block.middle_norm(block.middle(image)))
    found = block(image)
    assert found.shape == (3, 5, *image.shape[2:])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (found > 0).any()


def test_statistics_are_learnt_in_training_alone():
    block = FoldedConv(1, 4, kernel_size=(3, 3))
    image = torch.randn(2, 1, 8, 8) + 3
    before = block.norm.running_mean.clone()
    block.eval()(image)
    assert torch.equal(block.norm.running_mean, before)
    result = block.train()(image)
    middle = block.middle_norm.running_mean.clone()
    result.sum().backward()  # computes the middle again, whose statistics must not move twice
    assert torch.equal(block.middle_norm.running_mean, middle)
    assert not torch.equal(middle, torch.zeros(4))
    assert not torch.equal(block.norm.running_mean, before)
    for learnt in (block.convolution, block.middle):
        assert learnt.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_instance_norm_is_torchs_and_one_image_stays_channels_last(dims, batch):
    torch.manual_seed(0)
    norm = INSTANCE_NORM[dims](6, affine=True)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    image = torch.randn(batch, 6, *[5] * dims).to(memory_format=CHANNELS_LAST[dims]).requires_grad_()
    wanted = F.instance_norm(image, weight=norm.weight, bias=norm.bias)
    found = norm(image)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    if batch == 1:
        assert found.is_contiguous(memory_format=CHANNELS_LAST[dims])
    ours, theirs = (torch.autograd.grad(y.square().sum(), image)[0] for y in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
