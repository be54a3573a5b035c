"""Convolutional layers of stems and decoders, in 2-D and 3-D.

Letters: B batch, C channels, S spatial size.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.models.blocks.onednn import Conv3d, fused_conv_relu, onednn_computes
from sct.models.blocks.recompute import recomputed
from sct.models.blocks.sliced import SAME_CONV
from sct.models.grid import patches
from sct.models.patch import Extent, kept_size
from sct.runtime.processor import computed_in, infers_here

CONVOLUTION: dict[int, type[nn.Conv2d] | type[Conv3d]] = {2: nn.Conv2d, 3: Conv3d}
BATCH_NORM: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
MAX_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOL: dict[int, type[nn.AvgPool2d] | type[nn.AvgPool3d]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}

CHANNELS_LAST: dict[int, torch.memory_format] = {2: torch.channels_last, 3: torch.channels_last_3d}


class InstanceNorm2d(nn.InstanceNorm2d):
    """Instance norm of 2-D images; a batch of one stays in channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *S) -> (B, C, *S)."""
        return norm_of_one(x, norm=self) if is_single(x) else super().forward(x)


class InstanceNorm3d(nn.InstanceNorm3d):
    """Instance norm of volumes; a batch of one stays in channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *S) -> (B, C, *S)."""
        return norm_of_one(x, norm=self) if is_single(x) else super().forward(x)


INSTANCE_NORM: dict[int, type[InstanceNorm2d] | type[InstanceNorm3d]] = {2: InstanceNorm2d, 3: InstanceNorm3d}


def is_single(x: Tensor) -> bool:
    """Whether x is a batch of one image; false while a graph is recorded, which must be valid for every batch size."""
    return not torch.compiler.is_compiling() and len(x) == 1


def norm_of_one(x: Tensor, *, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> Tensor:
    """Instance norm of x (1, C, *S) as a batch norm: torch's instance norm copies channels-last memory twice."""
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


class FoldedConv(nn.Module):
    """Convolution that keeps the size, BatchNorm, ReLU: (B, in_channels, *S) -> (B, out_channels, *S).

    In training there is a second branch, whose result is added: a 1^d convolution (the middle of the kernel) and its
    norm. In evaluation norms and second branch are folded into the weights of one convolution, so they need no separate
    pass over memory (as in RepVGG, Ding et al., CVPR 2021).
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(kernel_size)
        convolution, norm = SAME_CONV[len(self.size)], BATCH_NORM[len(self.size)]
        padding = tuple(edge // 2 for edge in self.size)
        self.convolution = convolution(in_channels, out_channels, self.size, padding=padding, bias=False)  # type: ignore[arg-type]
        self.norm = norm(out_channels)
        self.middle = convolution(in_channels, out_channels, 1, bias=False)
        self.middle_norm = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, *S) -> (B, out_channels, *S)."""
        if self.training:
            # recomputed: the input of the middle's norm would add half of this layer's activations
            return self.norm(self.convolution(x)).add_(recomputed(self.middle_branch(), x)).relu_()
        weight, bias = folded(self.convolution, self.norm)
        middle, shift = folded(self.middle, self.middle_norm)
        # the sum is in float32, so that half precision rounds it only once
        weight = weight + F.pad(middle, [edge // 2 for edge in reversed(self.size) for _ in range(2)])
        return conv_relu(x, weight, bias + shift)

    def middle_branch(self) -> Callable[[Tensor], Tensor]:
        """The middle and its norm in training; only the first call changes the running statistics of the norm."""
        norm, is_first = self.middle_norm, True

        def apply(x: Tensor) -> Tensor:
            nonlocal is_first
            assert norm.running_mean is not None
            assert norm.running_var is not None
            mean, var = norm.running_mean, norm.running_var
            if not is_first:
                mean, var = mean.clone(), var.clone()
            is_first = False
            return F.batch_norm(self.middle(x), mean, var, norm.weight, norm.bias, training=True, eps=norm.eps)

        return apply


class PatchEmbedding2d(nn.Conv2d):
    """Linear embedding of the patches of 2-D images: a convolution with stride = kernel size."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *S) -> (B, dim, *grid)."""
        return embedded(x, convolution=self) if infers_here(x) else super().forward(x)


class PatchEmbedding3d(nn.Conv3d):
    """Linear embedding of the patches of volumes: a convolution with stride = kernel size."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *S) -> (B, dim, *grid)."""
        return embedded(x, convolution=self) if infers_here(x) else super().forward(x)


PATCH_EMBEDDING: dict[int, type[PatchEmbedding2d] | type[PatchEmbedding3d]] = {2: PatchEmbedding2d, 3: PatchEmbedding3d}


def embedded(x: Tensor, *, convolution: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Patch embedding as one matrix product, x (B, C, *S) -> (B, dim, *grid); a token's channels are adjacent.

    On processors it takes a seventh of the convolution's time, in bf16 with one channel and patches of 8^3.
    """
    size = convolution.kernel_size
    tokens = F.linear(patches(x, size=size), convolution.weight.flatten(1), convolution.bias)
    grid = [length // edge for length, edge in zip(x.shape[2:], size, strict=True)]
    return tokens.transpose(1, 2).unflatten(2, grid)


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu(convolution that keeps the size): x (B, C, *S), weight (O, C, *K), K odd, bias (O) -> (B, O, *S).

    With oneDNN the activation is part of the convolution. A separate pass over memory would take longer than the
    convolution where there are few channels.
    """
    dtype = computed_in(x)
    if not (infers_here(x) and onednn_computes(dtype)):
        convolve = F.conv2d if x.ndim == 4 else F.conv3d
        return convolve(x, weight, bias, padding=[edge // 2 for edge in weight.shape[2:]]).relu_()
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if x.shape[1] == 1 and x.shape[-1] % 2 == 0:
        return unpaired(fused_conv_relu(pairs(x), paired_kernel(weight), bias.repeat(2)))
    return fused_conv_relu(x, weight, bias)


def pairs(x: Tensor) -> Tensor:
    """Neighbours along the last axis as channels: x (B, 1, *S) -> (B, 2, ..., S[-1] / 2), channels-last."""
    return x.reshape(x.shape[0], *x.shape[2:-1], x.shape[-1] // 2, 2).movedim(-1, 1)


def unpaired(x: Tensor) -> Tensor:
    """The inverse of `pairs`: x (B, 2 O, ..., S[-1] / 2) -> (B, O, *S), channels-last."""
    B, channels, *size = x.shape
    return x.movedim(1, -1).reshape(B, *size[:-1], 2 * size[-1], channels // 2).movedim(-1, 1)


def paired_kernel(weight: Tensor) -> Tensor:
    """The kernel for `pairs` that equals weight (O, 1, *K) for voxels: (2 O, 2, ..., K'), first voxel's channels first.

    Convolutions of a single channel leave most of the processor's registers empty. From 96^3 voxels to 8 channels in
    bf16 the paired kernel takes 0.3 of the time, although half of it is zeros.
    """
    radius = weight.shape[-1] // 2
    reach = (radius + 1) // 2
    kernel = weight.new_zeros(2, weight.shape[0], 2, *weight.shape[2:-1], 2 * reach + 1)
    for voxel in (0, 1):
        for tap in range(-radius, radius + 1):
            pair, neighbour = divmod(voxel + tap, 2)
            kernel[voxel, :, neighbour, ..., reach + pair] = weight[:, 0, ..., radius + tap]
    return kernel.flatten(0, 1)


def folded(convolution: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution that equals a convolution and its norm in evaluation."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = convolution.weight * scale.reshape(-1, *[1] * (convolution.weight.ndim - 1))
    return weight, norm.bias - norm.running_mean * scale


def conv_bn_relu(in_channels: int, out_channels: int, *, kernel_size: Extent) -> nn.Sequential:
    """Convolution that keeps the size, BatchNorm, ReLU: (B, in_channels, *S) -> (B, out_channels, *S)."""
    return nn.Sequential(
        # no bias: the norm would subtract it
        size_keeping_conv(in_channels, out_channels, kernel_size=kernel_size, bias=False),
        BATCH_NORM[len(kernel_size)](out_channels),
        nn.ReLU(inplace=True),
    )


def double_conv(in_channels: int, out_channels: int, *, mid_channels: int, kernel_size: Extent) -> nn.Sequential:
    """Two `conv_bn_relu` in sequence, the block of a U-Net."""
    return nn.Sequential(
        conv_bn_relu(in_channels, mid_channels, kernel_size=kernel_size),
        conv_bn_relu(mid_channels, out_channels, kernel_size=kernel_size),
    )


def size_keeping_conv(
    in_channels: int, out_channels: int, *, kernel_size: Extent, bias: bool = True
) -> nn.Conv2d | nn.Conv3d:
    """A convolution with an odd kernel for each axis: (B, in_channels, *S) -> (B, out_channels, *S)."""
    convolution = CONVOLUTION[len(kernel_size)]
    return convolution(in_channels, out_channels, kernel_size, padding=kept_size(kernel_size), bias=bias)  # type: ignore[arg-type]


def transposed_conv(
    in_channels: int, out_channels: int, *, step: Extent, bias: bool = True
) -> nn.ConvTranspose2d | nn.ConvTranspose3d:
    """Transposed convolution whose kernel is its stride: (B, in_channels, *S) -> (B, out_channels, *S step)."""
    return TRANSPOSED[len(step)](in_channels, out_channels, kernel_size=step, stride=step, bias=bias)  # type: ignore[arg-type]


def init_he(module: nn.Module) -> None:
    """Kaiming's normal weights and zero biases for convolutions, as nnU-Net starts. For `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def strided_conv(in_channels: int, out_channels: int, *, step: Extent) -> nn.Conv2d | nn.Conv3d:
    """Convolution whose kernel is its stride: (B, in_channels, *S) -> (B, out_channels, *S / step)."""
    return CONVOLUTION[len(step)](in_channels, out_channels, kernel_size=step, stride=step)  # type: ignore[arg-type]
