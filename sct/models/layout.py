"""What a block is told about the tokens of its sequence: masks, biases, rotation and packing, from a token set.

Letters: B batch, N tokens of the grid, n tokens alive, P prefix tokens, D head width.
"""

from dataclasses import replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sct.models.blocks.layers import FULL, Layout
from sct.models.grid import join
from sct.models.tokens import Tokens


def layout_of(
    tokens: Tokens, *, num_prefix: int, masks: Literal["attention", "activation"] | None, rotary: Tensor | None
) -> Layout:
    """Layout of the sequence of P prefix tokens and the `tokens` of a set.

    masks: effect of the mask of the tokens, see `Reducer.masks`; None: the mask has no effect.
    rotary (N + 1, D): a `rotary_table`. Each token is rotated by the row of its place, prefix tokens by the last row.
    """
    bias = rotation = None
    if tokens.key_bias is not None:
        values = tokens.key_bias.unsqueeze(-1)
        prefix_bias = values.new_zeros(tokens.batch_size, num_prefix, 1)
        bias = join(prefix_bias, replace(tokens, x=values)).squeeze(-1)
    if rotary is not None:
        prefix_rows = rotary[-1].expand(tokens.batch_size, num_prefix, -1)
        rotation = join(prefix_rows, replace(tokens, x=rotary[tokens.index]))
    if tokens.lengths is not None:
        lengths = tuple(num_prefix + length for length in tokens.lengths)
        return Layout(lengths=lengths, key_bias=bias, rotation=rotation)
    if masks is None or tokens.mask is None:
        return FULL if bias is None and rotation is None else Layout(key_bias=bias, rotation=rotation)
    mask = F.pad(tokens.mask, (num_prefix, 0), value=1.0)
    if masks == "attention":
        return Layout(seen=mask, key_bias=bias, rotation=rotation)
    return Layout(active=mask, key_bias=bias, rotation=rotation)
