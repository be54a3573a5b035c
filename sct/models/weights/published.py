"""Conversion of published 2-D ViT weights (timm, DeiT, MAE, DINO) to the plain ViT: pure functions.

Letters: C width, P rows of a position table for tokens without a place in the grid, n side of the file's grid, p side
of a patch and I input channels of the file, (q, r) sides of a patch and J input channels of the encoder.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.errors import UserError
from sct.models.encoder import ViTEncoder
from sct.models.patch import Extent

NAMES = {
    "cls_token": "class_token",
    "pos_embed": "position",
    "patch_embed.proj.weight": "patch_embed.weight",
    "patch_embed.proj.bias": "patch_embed.bias",
}
# parts of published networks that the encoder does not have
OTHER_PARTS = ("head.", "head_dist.", "fc_norm.", "pre_logits.", "decoder_", "mask_token", "dist_token")
# layer scales of timm and DeiT III, and the layer before each
LAYER_SCALES = {"ls1.gamma": "attn.proj", "gamma_1": "attn.proj", "ls2.gamma": "mlp.fc2", "gamma_2": "mlp.fc2"}
# width of a head in nearly all published ViTs
HEAD_WIDTH = 64


@dataclass(frozen=True)
class Report:
    """Which weights of a file an encoder takes.

    taken, missing: names of the encoder's parameters that the file has or lacks.
    dropped: unused names of the file, of known other parts (heads, decoders). unexpected: all other unused names.
    notes: conversions of the weights, as sentences for the log.
    share: share of the encoder's parameters that is taken. transformer_share: the same for blocks and last norm only.
    """

    taken: list[str]
    missing: list[str]
    dropped: list[str]
    unexpected: list[str]
    notes: list[str]
    share: float
    transformer_share: float


def map_weights(weights: dict[str, Tensor], encoder: ViTEncoder, *, source: str) -> tuple[dict[str, Tensor], Report]:
    """Weights under published names -> weights for a 2-D encoder, under its names and in fp32, and the report.

    Patch kernels and positions are resized to the encoder's size; from a deeper file the first blocks are taken. The
    files do not contain the number of heads: `encoder.num_heads` must be the number of the published network.
    UserError, which names `source`, where the width differs.
    """
    folded, notes = fold_layer_scales({name: value.float() for name, value in weights.items()})
    file_names = {NAMES.get(name, name): name for name in folded}
    weights = {name: folded[file_names[name]] for name in file_names}
    check_width(weights, encoder, source=source)
    notes += depth_and_heads(weights, encoder)
    for fit in (fit_patch_embed, fit_positions):
        weights, new_notes = fit(weights, encoder)
        notes += new_notes
    parameters = dict(encoder.named_parameters())
    taken = {
        name: value for name, value in weights.items() if name in parameters and parameters[name].shape == value.shape
    }
    unused = [name for name in file_names if name not in taken]
    transformer = {name: value for name, value in parameters.items() if name.startswith(("blocks.", "norm."))}
    report = Report(
        taken=list(taken),
        missing=[name for name in parameters if name not in taken],
        dropped=[file_names[name] for name in unused if name.startswith(OTHER_PARTS)],
        unexpected=[
            f"{file_names[name]} {tuple(weights[name].shape)} where the encoder has {tuple(parameters[name].shape)}"
            if name in weights and name in parameters
            else file_names[name]
            for name in unused
            if not name.startswith(OTHER_PARTS)
        ],
        notes=notes,
        share=share(parameters, taken),
        transformer_share=share(transformer, taken),
    )
    return taken, report


def share(parameters: dict[str, torch.nn.Parameter], taken: dict[str, Tensor]) -> float:
    """The share of the parameters' values that is taken, 0 to 1."""
    num_taken = sum(value.numel() for name, value in parameters.items() if name in taken)
    return num_taken / sum(value.numel() for value in parameters.values())


def fold_layer_scales(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of the same network without layer scales: each scale is multiplied into the layer before it."""
    folded, scales = dict(weights), 0
    for name in weights:
        block, ending = ".".join(name.split(".")[:2]), ".".join(name.split(".")[2:])
        if block.startswith("blocks.") and ending in LAYER_SCALES:
            scale, layer, scales = folded.pop(name), f"{block}.{LAYER_SCALES[ending]}", scales + 1
            folded[f"{layer}.weight"] = folded[f"{layer}.weight"] * scale.unsqueeze(1)
            folded[f"{layer}.bias"] = folded[f"{layer}.bias"] * scale
    return folded, [f"{scales} layer scales multiplied into the layers before them"] if scales else []


def check_width(weights: dict[str, Tensor], encoder: ViTEncoder, *, source: str) -> None:
    """UserError where the width of tokens or attention differs between the file and the encoder."""
    name = "blocks.0.attn.qkv.weight"
    qkv, encoder_qkv = weights.get(name), encoder.state_dict().get(name)
    if qkv is None:
        return
    if qkv.shape[1] != encoder.spec.dim:
        raise UserError(
            f"pretrained={source} has tokens of width {qkv.shape[1]}, the encoder has encoder.dim={encoder.spec.dim}. "
            "Set encoder.dim and encoder.num_heads to the values of the published network, or take another file."
        )
    if encoder_qkv is not None and encoder_qkv.shape != qkv.shape:
        raise UserError(
            f"pretrained={source} has attention of width {qkv.shape[0] // 3}, the encoder has "
            f"{encoder_qkv.shape[0] // 3}. Set encoder.attention.head_dim=null, or take another file."
        )


def depth_and_heads(weights: dict[str, Tensor], encoder: ViTEncoder) -> list[str]:
    """Notes on the number of blocks and heads."""
    spec, notes = encoder.spec, []
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    if depth > encoder.depth:
        notes.append(f"the first {encoder.depth} of the file's {depth} blocks are taken")
    if depth < encoder.depth:
        notes.append(f"the file has {depth} blocks; the {encoder.depth - depth} blocks after them are initialised anew")
    if spec.dim != HEAD_WIDTH * spec.num_heads:
        notes.append(
            f"the file does not contain its number of heads; most published heads have width {HEAD_WIDTH}, but "
            f"encoder.num_heads={spec.num_heads} gives heads of width {spec.dim // spec.num_heads}"
        )
    return notes


def fit_patch_embed(weights: dict[str, Tensor], encoder: ViTEncoder) -> tuple[dict[str, Tensor], list[str]]:
    """The weights with the patch kernel fitted to the encoder; without it where a patch embedding is not on pixels."""
    kernel, spec = weights.get("patch_embed.weight"), encoder.spec
    if kernel is None:
        return weights, []
    p, patch = kernel.shape[-1], spec.patch_size
    if kernel.ndim != 4 or p == 1 or encoder.stem is not None:
        others = {name: value for name, value in weights.items() if not name.startswith("patch_embed.")}
        return others, ["the patch embedding is not taken: in the file or the encoder it is not on the image's pixels"]
    notes = []
    if kernel.shape[1] != spec.in_channels:
        kernel = mix_channels(kernel, spec.in_channels)
        notes.append(f"each of the {spec.in_channels} input channels starts with the mean of the file's patch kernels")
    if patch != (p, p):
        kernel = resize_kernel(kernel, patch)
        notes.append(f"patch kernels resized from {p} x {p} to {patch[0]} x {patch[1]}")
    return {**weights, "patch_embed.weight": kernel}, notes


def mix_channels(kernel: Tensor, num_channels: int) -> Tensor:
    """Patch kernel (C, I, p, p) -> (C, J, p, p): every channel gets the mean over the input channels, times I / J.

    An image with equal channels keeps the response that it has with I channels. For J = 1 the result is the sum of the
    kernels, so a grey image is embedded like its RGB copy.
    """
    return kernel.sum(dim=1, keepdim=True).expand(-1, num_channels, -1, -1) / num_channels


def resize_kernel(kernel: Tensor, size: Extent) -> Tensor:
    """Patch kernel (C, J, p, p) -> (C, J, q, r); a patch gets the response of the old kernel to the resized patch.

    It is the transpose of bicubic resizing from q x r to p x p, so a constant patch keeps its response.
    """
    C, J, p, _ = kernel.shape
    num_pixels = math.prod(size)
    pixels = torch.eye(num_pixels).reshape(num_pixels, 1, *size)
    resized = F.interpolate(pixels, size=(p, p), mode="bicubic", antialias=True).flatten(1)
    return (kernel.flatten(2) @ resized.T).reshape(C, J, *size)


def fit_positions(weights: dict[str, Tensor], encoder: ViTEncoder) -> tuple[dict[str, Tensor], list[str]]:
    """The weights with the position table fitted to the encoder's prefix and grid.

    Row of the class token: the first row of the file; zeros where the file has a class token without a position; the
    encoder's row where the file has no class token. If the encoder has no class token, rows of prefix tokens are
    dropped. A table is not taken if its rows are not a square grid with at most two prefix tokens (class token and
    distillation token).
    """
    table = weights.get("position")
    if table is None or encoder.position is None:
        return weights, []
    n = math.isqrt(table.shape[1])
    P = table.shape[1] - n * n
    if P > 2:
        others = {name: value for name, value in weights.items() if name != "position"}
        note = f"positions are not taken: {table.shape[1]} rows are not a square grid with at most two prefix tokens"
        return others, [note]
    prefix, places = table[:, :P], table[:, P:]
    class_row = encoder.position.detach()[:, : encoder.num_prefix].float().cpu()
    if P > 0:
        class_row = prefix[:, : encoder.num_prefix]
    elif "class_token" in weights:
        class_row = torch.zeros_like(class_row)
    notes = []
    if encoder.num_prefix < P:
        notes.append(f"{P - encoder.num_prefix} position(s) are dropped: the encoder does not have their prefix tokens")
    if (n, n) != encoder.grid:
        places = resize_positions(places, encoder.grid)
        notes.append(f"positions resized from {n} x {n} to {encoder.grid[0]} x {encoder.grid[1]}")
    return {**weights, "position": torch.cat([class_row, places], dim=1)}, notes


def resize_positions(places: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Positions (1, n^2, C) of a square grid resized bicubically to another grid: (1, N, C)."""
    n = math.isqrt(places.shape[1])
    table = places.transpose(1, 2).reshape(1, -1, n, n)
    return F.interpolate(table, size=grid, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
