"""Patches that an encoder does not see, and whether a network can still see what is in them.

Letters: B batch, N tokens of the grid, C channels of the image, Q channels of the logits, S spatial size.
"""

import math

import torch
from torch import Tensor

from sct.errors import UserError
from sct.models.grid import patches, presence
from sct.models.segmenter import Segmenter
from sct.models.tokens import Encoded

# of the largest prediction: what changes by less is rounded differently
ROUNDING = 1e-4
REMEDY = (
    "Give encoder=random pruning.blocks=[0] completion=mim decoder=primus, or +variant=mae, which sets all of them. "
    "encoder.stem=null: convolutions before the tokens see beyond a patch. decoder=patchwise decoder.detail=0 and "
    "decoder=fcn are blind, too."
)


def hidden_patches(encoded: Encoded) -> Tensor:
    """Places of the grid without a token in the final set: (B, N) bool."""
    return presence(encoded.final, num_tokens=math.prod(encoded.grid)) < 0.5


@torch.no_grad()
def check_hidden(segmenter: Segmenter) -> None:
    """UserError unless the encoder hides patches, and what the network predicts there is independent of their voxels.

    A network that sees hidden patches would learn to copy. Instead of a list of parts that see them (a decoder that
    reads the image, MTA, which completes with the embeddings of dropped patches, convolutions before the tokens) two
    images are compared that differ in hidden patches alone. A part whose weights begin at 0 shows nothing by that.
    """
    spec, was_training = segmenter.encoder.spec, segmenter.training
    segmenter.eval()
    device = next(segmenter.parameters()).device
    generator = torch.Generator().manual_seed(0)
    image, other = (
        torch.randn((1, spec.in_channels, *spec.image_size), generator=generator).to(device) for _ in range(2)
    )
    first = segmenter.predict(image)
    hidden = hidden_patches(first.encoded)
    mixed = torch.where(in_voxels(hidden, first.encoded.grid, size=image.shape[2:]), other, image)
    second = segmenter.predict(mixed)
    segmenter.train(was_training)
    if not hidden.any():
        raise UserError(f"loss=masked judges the patches that the encoder does not see, but it sees all. {REMEDY}")
    before, after = (patches(logits, size=spec.patch_size)[hidden].float() for logits in (first.logits, second.logits))
    if (before - after).abs().max() > ROUNDING * before.abs().max():
        raise UserError(
            "loss=masked asks for the voxels of hidden patches, but this network sees them: what it predicts there "
            f"changes with their voxels, and it would learn to copy. {REMEDY}"
        )


def in_voxels(hidden: Tensor, grid: tuple[int, ...], *, size: torch.Size) -> Tensor:
    """Patches (B, N) as voxels (B, 1, *S)."""
    mask = hidden.reshape(len(hidden), 1, *grid)
    for axis, (length, places) in enumerate(zip(size, grid, strict=True), start=2):
        mask = mask.repeat_interleave(length // places, dim=axis)
    return mask
