"""Convolutional pieces: shortcuts that give what the long way gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sct.models.blocks import convolutions
from sct.models.blocks.convolutions import CHANNELS_LAST, INSTANCE_NORM, FoldedConv, paired_kernel, pairs, unpaired
from sct.models.blocks.onednn import onednn_computes


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


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 3, 3), (3, 1, 1), (3, 3, 5)])
@pytest.mark.parametrize(("channels", "width"), [(1, 6), (1, 7), (3, 6)])
def test_inference_takes_a_pass_less_for_the_same_result(monkeypatch, channels, width, kernel_size, channels_last):
    torch.manual_seed(0)
    block = FoldedConv(channels, 5, kernel_size=kernel_size).eval()
    nn.init.normal_(block.norm.bias)
    image = torch.randn(2, channels, *[6] * (len(kernel_size) - 1), width)
    if channels_last:
        image = image.to(memory_format=CHANNELS_LAST[len(kernel_size)])
    used, fused = [], convolutions.fused_conv_relu
    monkeypatch.setattr(convolutions, "fused_conv_relu", lambda x, *rest: used.append(x.shape) or fused(x, *rest))
    wanted = block(image)
    assert not used, "gradients"
    with torch.no_grad():
        found = block(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = block(image)
        traced = torch.jit.trace(block, image, check_trace=False)
    # the second where the processor's oneDNN has bf16
    assert len(used) == (2 if onednn_computes(torch.bfloat16) else 1), "a graph shows what the network is"
    assert used[0][1] == (2 if (channels, width) == (1, 6) else channels)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(traced(image), wanted)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), wanted, rtol=0.05, atol=0.05)
    assert (found == 0).any()
    assert (found > 0).any()


def test_types_that_onednn_may_not_have_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(convolutions, "fused_conv_relu", None)
    block, image = FoldedConv(1, 5, kernel_size=(3, 3)).eval(), torch.randn(1, 1, 6, 6)
    wanted = block(image).detach()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        torch.testing.assert_close(block(image).float(), wanted, rtol=0.01, atol=0.01)
    with torch.no_grad():
        torch.testing.assert_close(block.double()(image.double()).float(), wanted)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        torch.testing.assert_close(block.float()(image), wanted)


@pytest.mark.parametrize("taps", [1, 3, 5, 7])
def test_pairs_of_voxels_are_convolved_as_voxels(taps):
    torch.manual_seed(0)
    image, weight = torch.randn(2, 1, 4, 10), torch.randn(3, 1, 3, taps)
    kernel = paired_kernel(weight)
    found = unpaired(F.conv2d(pairs(image), kernel, padding=[edge // 2 for edge in kernel.shape[2:]]))
    torch.testing.assert_close(found, F.conv2d(image, weight, padding=(1, taps // 2)), rtol=1e-5, atol=1e-5)
    assert pairs(image).data_ptr() == image.data_ptr()


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
