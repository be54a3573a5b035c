"""Weights of published 2-D vision transformers (timm, DeiT, MAE, DINO) fitted to the plain ViT: pure functions.

Letters: C width, P rows of a position table without a place in the grid, n side of the file's grid, p patch size of
the file, q of the encoder, I input channels of the file, J of the encoder.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.errors import UserError
from sct.models.encoder import ViTEncoder

NAMES = {
    "cls_token": "class_token",
    "pos_embed": "position",
    "patch_embed.proj.weight": "patch_embed.weight",
    "patch_embed.proj.bias": "patch_embed.bias",
}
# parts of published networks that no encoder has
OTHER_PARTS = ("head.", "head_dist.", "fc_norm.", "pre_logits.", "decoder_", "mask_token", "dist_token")
# layer scales of timm and DeiT III, and the layer in front of each
LAYER_SCALES = {"ls1.gamma": "attn.proj", "gamma_1": "attn.proj", "ls2.gamma": "mlp.fc2", "gamma_2": "mlp.fc2"}
# width of a head in nearly all published ViTs
HEAD_WIDTH = 64


@dataclass(frozen=True)
class Report:
    """What of a file goes into an encoder.

    taken, missing: names of the encoder's parameters. dropped, unexpected: names of the file, those of known other
    parts (heads, decoders) and all else that is not used. notes: what was changed on the way. share: how much of
    the encoder's parameters is taken; transformer_share: the same of its blocks and last norm alone.
    """

    taken: list[str]
    missing: list[str]
    dropped: list[str]
    unexpected: list[str]
    notes: list[str]
    share: float
    transformer_share: float


def map_weights(weights: dict[str, Tensor], encoder: ViTEncoder, *, source: str) -> tuple[dict[str, Tensor], Report]:
    """Weights under published names -> those that a 2-D encoder takes, under its names in fp32, and the report.

    Patch kernels and positions are resized to the encoder's, the first blocks of a deeper file are taken. No file
    tells its number of heads: `encoder.num_heads` has to be that of the published network. UserError, which names
    `source`, where the width is another one.
    """
    folded, notes = fold_layer_scales({name: value.float() for name, value in weights.items()})
    in_file = {NAMES.get(name, name): name for name in folded}
    found = {name: folded[in_file[name]] for name in in_file}
    check_width(found, encoder, source=source)
    notes += depth_and_heads(found, encoder)
    for fit in (fit_patch_embed, fit_positions):
        found, new_notes = fit(found, encoder)
        notes += new_notes
    own = dict(encoder.named_parameters())
    taken = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    unused = [name for name in in_file if name not in taken]
    report = Report(
        taken=list(taken),
        missing=[name for name in own if name not in taken],
        dropped=[in_file[name] for name in unused if name.startswith(OTHER_PARTS)],
        unexpected=[
            f"{in_file[name]} {tuple(found[name].shape)} where the encoder has {tuple(own[name].shape)}"
            if name in found and name in own
            else in_file[name]
            for name in unused
            if not name.startswith(OTHER_PARTS)
        ],
        notes=notes,
        share=share(own, taken),
        transformer_share=share({name: own[name] for name in own if name.startswith(("blocks.", "norm."))}, taken),
    )
    return taken, report


def share(own: dict[str, torch.nn.Parameter], taken: dict[str, Tensor]) -> float:
    """How much of these parameters' values is taken, 0 to 1."""
    return sum(own[name].numel() for name in own if name in taken) / sum(value.numel() for value in own.values())


def fold_layer_scales(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The same network without layer scales: each is multiplied into the outputs of the layer in front of it."""
    folded, scales = dict(weights), 0
    for name in weights:
        block, ending = ".".join(name.split(".")[:2]), ".".join(name.split(".")[2:])
        if block.startswith("blocks.") and ending in LAYER_SCALES:
            scale, layer, scales = folded.pop(name), f"{block}.{LAYER_SCALES[ending]}", scales + 1
            folded[f"{layer}.weight"] = folded[f"{layer}.weight"] * scale.unsqueeze(1)
            folded[f"{layer}.bias"] = folded[f"{layer}.bias"] * scale
    return folded, [f"{scales} layer scales multiplied into the layers in front of them"] if scales else []


def check_width(found: dict[str, Tensor], encoder: ViTEncoder, *, source: str) -> None:
    """UserError where tokens or attention of the file have another width than the encoder's."""
    qkv, own = (weights.get("blocks.0.attn.qkv.weight") for weights in (found, encoder.state_dict()))
    if qkv is None:
        return
    if qkv.shape[1] != encoder.spec.dim:
        raise UserError(
            f"pretrained={source} has tokens of width {qkv.shape[1]}, the encoder has encoder.dim={encoder.spec.dim}. "
            "Set encoder.dim and encoder.num_heads to those of the file, or take another file."
        )
    if own is not None and own.shape != qkv.shape:
        raise UserError(
            f"pretrained={source} has attention of width {qkv.shape[0] // 3}, the encoder has {own.shape[0] // 3}. "
            "Set encoder.attention.head_dim=null, or take another file."
        )


def depth_and_heads(found: dict[str, Tensor], encoder: ViTEncoder) -> list[str]:
    """What is to be said about the number of blocks and heads."""
    spec, notes = encoder.spec, []
    depth = len({name.split(".")[1] for name in found if name.startswith("blocks.")})
    if depth > encoder.depth:
        notes.append(f"of the file's {depth} blocks the first {encoder.depth} are taken")
    if depth < encoder.depth:
        notes.append(f"the file has {depth} blocks, the {encoder.depth - depth} behind them start anew")
    if spec.dim != HEAD_WIDTH * spec.num_heads:
        notes.append(
            f"the file does not tell its heads, which mostly are {HEAD_WIDTH} wide; encoder.num_heads="
            f"{spec.num_heads} makes them {spec.dim // spec.num_heads} wide"
        )
    return notes


def fit_patch_embed(found: dict[str, Tensor], encoder: ViTEncoder) -> tuple[dict[str, Tensor], list[str]]:
    """The weights with the patch kernel for the encoder's images, or without one where either is not on pixels."""
    kernel, spec = found.get("patch_embed.weight"), encoder.spec
    if kernel is None:
        return found, []
    p, q = kernel.shape[-1], spec.patch_size
    if kernel.ndim != 4 or p == 1 or encoder.stem is not None:
        kept = {name: value for name, value in found.items() if not name.startswith("patch_embed.")}
        return kept, ["the patch embedding is not taken: the file's or the encoder's is not on the image's pixels"]
    notes = []
    if kernel.shape[1] != spec.in_channels:
        kernel = mix_channels(kernel, spec.in_channels)
        notes.append(f"every one of {spec.in_channels} input channels begins with the mean patch kernel of the file's")
    if p != q:
        kernel = resize_kernel(kernel, q)
        notes.append(f"patch kernels resized from {p} x {p} to {q} x {q}")
    return {**found, "patch_embed.weight": kernel}, notes


def mix_channels(kernel: Tensor, num_channels: int) -> Tensor:
    """Patch kernel (C, I, p, p) -> (C, J, p, p): the mean over input channels, times I / J, for every channel.

    An image whose channels are all the same gets the response that it had with I channels: for J = 1 this is the
    sum, and a grey image is embedded as its RGB copy was.
    """
    return kernel.sum(dim=1, keepdim=True).expand(-1, num_channels, -1, -1) / num_channels


def resize_kernel(kernel: Tensor, size: int) -> Tensor:
    """Patch kernel (C, J, p, p) -> (C, J, q, q) whose response to a patch is the old one's to the resized patch.

    The transpose of bicubic resizing from q x q to p x p, so a constant patch keeps its response.
    """
    C, J, p, _ = kernel.shape
    pixels = torch.eye(size * size).reshape(size * size, 1, size, size)
    resized = F.interpolate(pixels, size=(p, p), mode="bicubic", antialias=True).flatten(1)
    return (kernel.flatten(2) @ resized.T).reshape(C, J, size, size)


def fit_positions(found: dict[str, Tensor], encoder: ViTEncoder) -> tuple[dict[str, Tensor], list[str]]:
    """The weights with the position table of the encoder's prefix and grid.

    The class token's row is the file's first; where the file's class token has no position, zeros; where the
    file has no class token, the encoder's own. Without a class token in the encoder, all such rows are dropped.
    A table of no square grid, with at most a class and a distillation token in front, is not taken.
    """
    table = found.get("position")
    if table is None or encoder.position is None:
        return found, []
    n = math.isqrt(table.shape[1])
    P = table.shape[1] - n * n
    if P > 2:
        kept = {name: value for name, value in found.items() if name != "position"}
        return kept, [f"positions are not taken: {table.shape[1]} rows are no square grid with a token or two in front"]
    prefix, places = table[:, :P], table[:, P:]
    class_row = encoder.position.detach()[:, : encoder.num_prefix].float().cpu()
    if P > 0:
        class_row = prefix[:, : encoder.num_prefix]
    elif "class_token" in found:
        class_row = torch.zeros_like(class_row)
    notes = []
    if encoder.num_prefix < P:
        notes.append(f"{P - encoder.num_prefix} position(s) of tokens that the encoder lacks are dropped")
    if (n, n) != encoder.grid:
        places = resize_positions(places, encoder.grid)
        notes.append(f"positions resized from {n} x {n} to {encoder.grid[0]} x {encoder.grid[1]}")
    return {**found, "position": torch.cat([class_row, places], dim=1)}, notes


def resize_positions(places: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Positions (1, n^2, C) of a square grid resized bicubically to another grid: (1, N, C)."""
    n = math.isqrt(places.shape[1])
    table = places.transpose(1, 2).reshape(1, -1, n, n)
    return F.interpolate(table, size=grid, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
