"""Computed costs of a network: parameters, and multiply-accumulate operations (MACs) of one forward pass.

Letters: B batch, H heads, L queries, M keys, D head width, S spatial size.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sct.errors import UserError
from sct.models.segmenter import Segmenter

# gets the traced inputs and outputs of an operator, returns its MACs
Handler = Callable[[list, list], float]

PARTS = ("encoder", "completion", "decoder")
SELF_ATTENTION = re.compile(r"encoder\.blocks\.\d+\.attn")


def attention_products(inputs: list, outputs: list) -> int:
    """Both matrix products of fused attention: queries (..., L, D), keys (..., M, D), values (..., M, E)."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def attention_scale(inputs: list, outputs: list) -> int:
    """One multiplication for each entry of the attention map (..., L, M)."""
    query, key = (get_shape(tensor) for tensor in inputs[:2])
    return math.prod(query[:-1]) * key[-2]


def attention_with_scale(inputs: list, outputs: list) -> int:
    return attention_products(inputs, outputs) + attention_scale(inputs, outputs)


def convolution_by_output(inputs: list, outputs: list) -> int:
    """Output elements x input channels of the group x kernel volume, transposed or not.

    For a transposed convolution of stride s, this is s^dims times its true cost.
    """
    shape = get_shape(outputs[0])
    return shape[0] * math.prod(shape[2:]) * math.prod(get_shape(inputs[1]))


def free(inputs: list, outputs: list) -> int:
    return 0


def affine_norm(weight: int) -> Handler:
    """One multiplication for each element if the norm has a weight (input number `weight`), else nothing."""

    def handler(inputs: list, outputs: list) -> int:
        return 0 if get_shape(inputs[weight]) is None else math.prod(get_shape(inputs[0]))

    return handler


ATTENTION = "aten::scaled_dot_product_attention"
PRODUCTS = ("aten::matmul", "aten::bmm", "aten::mm", "aten::einsum")
NORMS = {"aten::layer_norm": 2, "aten::group_norm": 2, "aten::instance_norm": 1, "aten::batch_norm": 1}
RESAMPLING = (
    "aten::upsample_nearest2d",
    "aten::upsample_bilinear2d",
    "aten::adaptive_avg_pool2d",
    "aten::grid_sampler",
)

# name -> handlers that differ from fvcore's handlers
CONVENTIONS: dict[str, dict[str, Handler]] = {
    # all that fvcore counts (norms: 4 or 5 for each element), and attention, which fvcore does not count
    "fvcore": {ATTENTION: attention_products},
    # the numbers in the STP paper
    "paper": {
        ATTENTION: attention_with_scale,
        "aten::_convolution": convolution_by_output,
        **{name: affine_norm(weight) for name, weight in NORMS.items()},
        **dict.fromkeys(RESAMPLING, free),
    },
    # the numbers in the APFormer paper: linear and convolution layers only
    "modules": dict.fromkeys((ATTENTION, *PRODUCTS, *NORMS, *RESAMPLING), free),
}


class PlainTracing(TorchFunctionMode):
    """Makes fvcore able to trace ordinary Python code, and convolutions on the meta device.

    Tracing turns every size into a tensor. This fails where code needs exact integers, so sizes are turned back into
    integers. A convolution on the meta device leaves no operator in the trace, so it is replaced by the operator that
    other devices record.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if args and isinstance(args[0], Tensor) and args[0].is_meta and func in CONVOLUTIONS:
            return CONVOLUTIONS[func](*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if func in (Tensor.shape.__get__, Tensor.size):
            return torch.Size(map(int, result)) if isinstance(result, tuple) else int(result)
        return result


def convolution(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """`F.conv2d` and `F.conv3d` as the operator that fvcore counts."""
    steps = [along_axes(value, x=x) for value in (stride, padding, dilation)]
    return torch._convolution(x, weight, bias, *steps, False, [0], groups, False, False, True, True)


def along_axes(value, *, x: Tensor):
    """A list with one value for each spatial axis of x (B, C, *S); `F.conv2d` also takes a single number."""
    return [value] * (x.ndim - 2) if isinstance(value, int) else value


def transposed_convolution(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """`F.conv_transpose2d` and `F.conv_transpose3d` as the operator that fvcore counts."""
    steps = [along_axes(value, x=x) for value in (stride, padding, dilation)]
    extra = along_axes(output_padding, x=x)
    return torch._convolution(x, weight, bias, *steps, True, extra, groups, False, False, True, True)


CONVOLUTIONS: dict[Callable, Callable] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), convolution),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), transposed_convolution),
}


def check_convention(convention: str) -> None:
    """UserError for a name that is not in `CONVENTIONS`."""
    if convention not in CONVENTIONS:
        names = ", ".join(CONVENTIONS)
        raise UserError(f"profile.convention={convention!r} is unknown; choose one of {names}.")


def count_macs(segmenter: Segmenter, image: Tensor, *, convention: str = "fvcore") -> dict[str, int]:
    """MACs of `segmenter` for one image in evaluation mode: {"total", "encoder", "completion", "decoder"}.

    image (B, C_in, *S): the result is the mean over the batch, since some methods keep a different number of tokens
    for each image. On the meta device (network and image) nothing is computed and counting takes a second.
    """
    counts = counts_by_module(segmenter, image, convention=convention)
    modules = {"total": "", **{part: part for part in PARTS}}
    return {name: round(counts[module] / image.shape[0]) for name, module in modules.items()}


def count_layers(segmenter: Segmenter, image: Tensor) -> dict[str, int]:
    """MACs of linear and convolution layers alone: {"total", "self_attention"}; image as in `count_macs`.

    "self_attention" is of the attention modules in the encoder's blocks, which are its projections and, with APFormer's
    pruning, the projection of the thresholds. These are the SA-GFLOPs in table III of the APFormer paper.
    """
    counts = counts_by_module(segmenter, image, convention="modules")
    attention = sum(count for name, count in counts.items() if SELF_ATTENTION.fullmatch(name))
    return {"total": round(counts[""] / image.shape[0]), "self_attention": round(attention / image.shape[0])}


def counts_by_module(segmenter: Segmenter, image: Tensor, *, convention: str) -> Mapping[str, float]:
    """MACs of a whole batch by the name of the module; "" is the network."""
    check_convention(convention)
    segmenter.eval()
    analysis = FlopCountAnalysis(segmenter, image).set_op_handle(**CONVENTIONS[convention])
    # operators without a handler cost no MACs (checked below); modules that are not called are training heads
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad(), PlainTracing():
        counts = analysis.by_module()
    products = re.compile(r"mm\b|attention|conv|matmul|dot\b")
    missed = [name for name in analysis.unsupported_ops() if products.search(name)]
    if missed:
        warnings.warn(f"MACs of {', '.join(missed)} are not counted: no handler in sct.profiling.macs.", stacklevel=3)
    return counts


def count_parameters(module: nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters; with `trainable`, of the trained parameters only."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
