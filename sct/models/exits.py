"""Early exits (DToP): the predictions of all heads, merged on one canvas in the shape of the grid.

Letters: B batch, N tokens of the grid, n tokens alive, C width, Q classes.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.models.grid import assemble, presence, to_grid
from sct.models.tokens import Dense, Early, Encoded, HeadOutput, TokenOutput, Tokens

Head = Callable[[Tokens], TokenOutput]


def merge_stages(encoded: Encoded, *, losses: bool) -> Early:
    """Merges the `early_outputs` of all stages on one canvas; a later head overwrites the tokens that it sees.

    With `losses` the merged output of every stage is kept. Predictions of earlier heads are constants in it, so each
    head is trained only on the tokens that it sees.
    """
    first, N = encoded.early_outputs[0], math.prod(encoded.grid)
    B, Q = first.tokens.batch_size, first.masks.shape[-1]
    canvas = first.masks.new_zeros(B, Q, N)
    present = None if first.classes is None else canvas
    exited = torch.zeros(B, N, dtype=torch.bool, device=canvas.device)
    stages = []
    for output, dropped in zip(encoded.early_outputs, encoded.dropped, strict=True):
        canvas = overwrite(canvas, output, exited=exited)
        if output.classes is not None and present is not None:
            scores = output.classes.detach().log_softmax(dim=-1)[..., :1]
            present = torch.where(exited.unsqueeze(1), present, scores)
        if losses:
            stages.append(HeadOutput(canvas.reshape(B, Q, *encoded.grid), output.classes))
        exited = exited | (presence(dropped, num_tokens=N) > 0)
    return Early(canvas.detach(), exited, present, stages)


def overwrite(canvas: Tensor, output: TokenOutput, *, exited: Tensor) -> Tensor:
    """canvas (B, Q, N) with the new masks of the tokens alive; places that exited (B, N) stay, as constants."""
    masks = assemble([output.masks], [output.tokens], num_tokens=exited.shape[1]).transpose(1, 2)
    return torch.where(exited.unsqueeze(1), canvas.detach(), masks)


def predict(head: Head, dense: Dense, *, canvas: Callable[[Early], Tensor]) -> HeadOutput:
    """Output of a decoder's head for the whole grid; tokens that left early keep their prediction from `canvas`."""
    if dense.early is None:
        B, N, _ = dense.x.shape
        output = head(Tokens(dense.x, torch.arange(N, device=dense.x.device).expand(B, -1)))
        return HeadOutput(to_grid(output.masks, dense.grid), output.classes)
    output = head(live_tokens(dense))
    masks = overwrite(canvas(dense.early), output, exited=dense.early.exited)
    return HeadOutput(masks.unflatten(2, dense.grid), output.classes)


def live_tokens(dense: Dense) -> Tokens:
    """The tokens alive, with features read from the grid; tokens without a place keep the features of `dense.live`.

    The values are those of `dense.live`. Read from the grid, the completion's parameters for exited tokens get a
    gradient of zero. Without this they would get no gradient, and data-parallel training would wait for one.
    """
    assert dense.live is not None
    live, N = dense.live, dense.x.shape[1]
    rows = live.images() * N + live.index.clamp(max=N - 1)
    x = dense.x.flatten(0, 1).index_select(0, rows.flatten()).reshape(live.x.shape)
    return replace(live, x=torch.where((live.index < N).unsqueeze(-1), x, live.x))


def class_canvas(early: Early) -> Tensor:
    """The early predictions as class logits (B, Q, N); for a query head, log(softmax(class) x sigmoid(mask))."""
    return early.canvas if early.present is None else F.logsigmoid(early.canvas) + early.present


def mask_canvas(early: Early) -> Tensor:
    """The early predictions as mask logits (B, Q, N); for class logits, the sigmoid of the result is their softmax."""
    if early.present is not None:
        return early.canvas
    return torch.logit(early.canvas.float().softmax(dim=1), eps=1e-6)
