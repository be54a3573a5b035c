"""Convolutions that oneDNN computes, also where torch would not ask it.

Letters: B batch, C channels, O output channels, D, H, W size of a volume, S spatial size, K size of a kernel.
"""

import math

import torch
from torch import Tensor, nn

from sct.runtime.processor import computed_in, infers_here


def onednn_computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN's convolutions can be called directly; unlike torch's, they fail where oneDNN can't compute."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fused_conv_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu(convolution that keeps the size) as one operation: x (B, C, *S), weight (O, C, *K), bias (O) -> (B, O, *S).

    torch's compiler uses it too; all inputs must have the same dtype.
    """
    ones, padding = [1] * (x.ndim - 2), [edge // 2 for edge in weight.shape[2:]]
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, ones, ones, 1, "relu", [], "")


class Conv3d(nn.Conv3d):
    """Convolution of volumes, by oneDNN in prediction in float32.

    torch has slow code of its own for a single volume with C D H of at most 20,480, and with one thread also for
    kernels of one voxel along the last two axes. In channels-last memory, on one thread with AVX2, it takes 9 times as
    long for 3^3 voxels and 32 channels at 24^3 voxels, and 3 times as long for the classes of 96^3 voxels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, O, *S)."""
        return self.by_onednn(x) if self.suits_onednn(x) else super().forward(x)

    def suits_onednn(self, x: Tensor) -> bool:
        """Whether oneDNN may compute x, and is not slower.

        In plain memory it is slower for single voxels: torch takes a matrix product.
        """
        return (
            infers_here(x)
            and x.ndim == 5
            and x.dtype == computed_in(x) == self.weight.dtype == torch.float32
            and onednn_computes(torch.float32)
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and (math.prod(self.kernel_size) > 1 or x.is_contiguous(memory_format=torch.channels_last_3d))
        )

    def by_onednn(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, O, *S), whatever torch would choose."""
        assert not isinstance(self.padding, str)
        steps = (self.padding, self.stride, self.dilation)
        return torch.mkldnn_convolution(x, self.weight, self.bias, *steps, self.groups)
