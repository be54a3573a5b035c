"""Convolutional pieces that hybrids and decoders share, in 2-D and 3-D.

Letters: B batch, C channels, S spatial size.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.models.blocks.recompute import recomputed
from sct.models.blocks.sliced import SAME_CONV
from sct.models.grid import patches
from sct.runtime.processor import computed_in, infers_here

CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
MAX_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}

CHANNELS_LAST: dict[int, torch.memory_format] = {2: torch.channels_last, 3: torch.channels_last_3d}


class InstanceNorm2d(nn.InstanceNorm2d):
    """Of pictures; a single one stays channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *S) -> (B, C, *S)."""
        return norm_of_one(x, norm=self) if is_single(x) else super().forward(x)


class InstanceNorm3d(nn.InstanceNorm3d):
    """Of volumes; a single one stays channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *S) -> (B, C, *S)."""
        return norm_of_one(x, norm=self) if is_single(x) else super().forward(x)


INSTANCE_NORM: dict[int, type[InstanceNorm2d] | type[InstanceNorm3d]] = {2: InstanceNorm2d, 3: InstanceNorm3d}


def is_single(x: Tensor) -> bool:
    """Whether x holds one image; never where a graph is recorded, which has to hold for any number of them."""
    return not torch.compiler.is_compiling() and len(x) == 1


def norm_of_one(x: Tensor, *, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> Tensor:
    """x (1, C, *S) as the batch norm of a batch of one: torch's instance norm copies channels-last memory, twice."""
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


class FoldedConv(nn.Module):
    """Convolution that keeps the size, BatchNorm, ReLU: (B, in_channels, *S) -> (B, out_channels, *S).

    In training the middle of its kernel has a convolution and a norm of its own beside it, whose result is added. In
    evaluation norms and middle are folded into one convolution's weights, and have no pass over memory of their own
    (as in RepVGG, Ding et al., CVPR 2021).
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
            # kept, what the middle's norm is given would be half as much again of this layer's activations
            return self.norm(self.convolution(x)).add_(recomputed(self.beside(), x)).relu_()
        weight, bias = folded(self.convolution, self.norm)
        middle, shift = folded(self.middle, self.middle_norm)
        # in float32 until here: half precision would round the sum twice
        weight = weight + F.pad(middle, [edge // 2 for edge in reversed(self.size) for _ in range(2)])
        return conv_relu(x, weight, bias + shift)

    def beside(self) -> Callable[[Tensor], Tensor]:
        """The middle and its norm in training, whose running statistics take in the first of its calls alone."""
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
    """Linear embedding of the patches of pictures: a convolution whose stride is its kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *S) -> (B, dim, *grid)."""
        return embedded(x, convolution=self) if infers_here(x) else super().forward(x)


class PatchEmbedding3d(nn.Conv3d):
    """Linear embedding of the patches of volumes: a convolution whose stride is its kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *S) -> (B, dim, *grid)."""
        return embedded(x, convolution=self) if infers_here(x) else super().forward(x)


PATCH_EMBEDDING: dict[int, type[PatchEmbedding2d] | type[PatchEmbedding3d]] = {2: PatchEmbedding2d, 3: PatchEmbedding3d}


def embedded(x: Tensor, *, convolution: nn.Conv2d | nn.Conv3d) -> Tensor:
    """The same sums as one product, x (B, C, *S) -> (B, dim, *grid), each token's channels side by side.

    On processors in a seventh of the convolution's time, in bf16 with one channel and patches of 8^3.
    """
    size = convolution.kernel_size
    tokens = F.linear(patches(x, size=size), convolution.weight.flatten(1), convolution.bias)
    grid = [length // edge for length, edge in zip(x.shape[2:], size, strict=True)]
    return tokens.transpose(1, 2).unflatten(2, grid)


def conv_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu(convolution that keeps the size): x (B, C, *S), weight (O, C, *K), K odd, bias (O) -> (B, O, *S).

    Where oneDNN computes, the activation is part of its convolution and needs no pass over memory of its own, which
    takes longer than the convolution where channels are few.
    """
    dtype = computed_in(x)
    if not (infers_here(x) and onednn_computes(dtype)):
        apply = F.conv2d if x.ndim == 4 else F.conv3d
        return apply(x, weight, bias, padding=[edge // 2 for edge in weight.shape[2:]]).relu_()
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if x.shape[1] == 1 and x.shape[-1] % 2 == 0:
        return unpaired(fused_conv_relu(pairs(x), paired_kernel(weight), bias.repeat(2)))
    return fused_conv_relu(x, weight, bias)


def onednn_computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN's convolutions can be called by themselves: they fail where torch's would fall back on others."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fused_conv_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`conv_relu` as oneDNN's one operation, which torch's compiler uses on processors; the caller has the types."""
    ones, padding = [1] * (x.ndim - 2), [edge // 2 for edge in weight.shape[2:]]
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, ones, ones, 1, "relu", [], "")


def pairs(x: Tensor) -> Tensor:
    """Neighbours along the last axis as channels: x (B, 1, *S) -> (B, 2, ..., S[-1] / 2), channels-last."""
    return x.reshape(x.shape[0], *x.shape[2:-1], x.shape[-1] // 2, 2).movedim(-1, 1)


def unpaired(x: Tensor) -> Tensor:
    """The way back: x (B, 2 O, ..., S[-1] / 2) -> (B, O, *S), channels-last."""
    B, channels, *size = x.shape
    return x.movedim(1, -1).reshape(B, *size[:-1], 2 * size[-1], channels // 2).movedim(-1, 1)


def paired_kernel(weight: Tensor) -> Tensor:
    """What weight (O, 1, *K) does to voxels, done to `pairs`: (2 O, 2, ..., K'), channels of the first voxel first.

    Convolutions of a single channel leave most of the processor's registers empty. From 96^3 voxels to 8 channels in
    bf16 this takes three tenths of the time, though half of the kernel is zeros.
    """
    radius = weight.shape[-1] // 2
    reach = (radius + 1) // 2
    kernel = weight.new_zeros(2, weight.shape[0], 2, *weight.shape[2:-1], 2 * reach + 1)
    for own in (0, 1):
        for tap in range(-radius, radius + 1):
            pair, other = divmod(own + tap, 2)
            kernel[own, :, other, ..., reach + pair] = weight[:, 0, ..., radius + tap]
    return kernel.flatten(0, 1)


def folded(convolution: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that is a convolution and its norm in evaluation."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = convolution.weight * scale.reshape(-1, *[1] * (convolution.weight.ndim - 1))
    return weight, norm.bias - norm.running_mean * scale


def conv_bn_relu(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """3^dims convolution that keeps the size, BatchNorm, ReLU: (B, in_channels, *S) -> (B, out_channels, *S)."""
    return nn.Sequential(
        # the norm subtracts a bias again
        CONVOLUTION[spatial_dims](in_channels, out_channels, 3, padding=1, bias=False),
        BATCH_NORM[spatial_dims](out_channels),
        nn.ReLU(inplace=True),
    )


def double_conv(spatial_dims: int, in_channels: int, out_channels: int, *, mid_channels: int) -> nn.Sequential:
    """Two `conv_bn_relu` in turn, the U-Net's block."""
    return nn.Sequential(
        conv_bn_relu(spatial_dims, in_channels, mid_channels), conv_bn_relu(spatial_dims, mid_channels, out_channels)
    )
