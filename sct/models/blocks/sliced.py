"""Convolutions of volumes with a faster gradient of the weights on processors, which needs less memory than oneDNN's.

Letters: B batch, C channels, O output channels, D, H, W size of a volume, K size of a kernel.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sct.models.blocks.onednn import Conv3d
from sct.runtime.processor import computed_in


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution that keeps the size: x (B, C, *S), weight (O, C, *K), K odd, bias (O) -> (B, O, *S).

    When training on volumes on a processor, the gradient of the weights is computed from slices along the first axis,
    as a batch of 2-D images. For 96^3 voxels with few channels this takes a quarter to three quarters of oneDNN's time.
    It needs 1 MB; oneDNN in bf16 copies the volume for each thread, which is 54 MB per thread with tiles (AMX).
    """
    padding = [edge // 2 for edge in weight.shape[2:]]
    is_learning = torch.is_grad_enabled() and weight.requires_grad
    if not is_learning or x.ndim != 5 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, bias, padding=padding)
    dtype = computed_in(x)
    y = SlicedConv3d.apply(x.to(dtype), weight.to(dtype), padding)
    return y if bias is None else y.add_(bias.to(dtype).reshape(-1, 1, 1, 1))


class SlicedConv3d(torch.autograd.Function):
    """`same_conv` of a volume, without bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv3d(x, weight, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = gradient(grad, x, weight, ctx.padding, of_weight=False)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(grad, x, weight)
        return grad_x, grad_weight, None


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of weight (O, C, *K) from grad (B, O, D, H, W) and x (B, C, D, H, W).

    A plane of the kernel at some distance from the middle plane pairs slices of grad and x at the same distance.
    """
    depth, radius = x.shape[2], weight.shape[2] // 2
    padding, planes = [edge // 2 for edge in weight.shape[3:]], []
    for number, plane in enumerate(weight.unbind(2)):
        shift = number - radius
        grad_slices, x_slices = (slice(max(0, step), depth + min(0, step)) for step in (-shift, shift))
        # image by image: the slices of one image are a batch without a copy
        parts = [
            gradient(g[:, grad_slices].movedim(1, 0), volume[:, x_slices].movedim(1, 0), plane, padding, of_weight=True)
            for g, volume in zip(grad, x, strict=True)
        ]
        planes.append(parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0))
    return torch.stack(planes, dim=2)


def gradient(grad: Tensor, x: Tensor, weight: Tensor, padding: Sequence[int], *, of_weight: bool) -> Tensor:
    """Gradient of a convolution with stride 1: of its weight, or of its input."""
    ones, zeros = [1] * len(padding), [0] * len(padding)
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, None, ones, padding, ones, False, zeros, 1, [not of_weight, of_weight, False]
    )
    return gradients[1 if of_weight else 0]


class SameConv3d(Conv3d):
    """Convolution that keeps the size of volumes: an odd kernel, stride 1, and half the kernel as padding."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) -> (B, O, D, H, W)."""
        return same_conv(x, self.weight, self.bias) if self.training else super().forward(x)


# convolutions that keep the size, for 2-D images and for volumes
SAME_CONV: dict[int, type[nn.Conv2d] | type[SameConv3d]] = {2: nn.Conv2d, 3: SameConv3d}
