"""Which blocks of an encoder keep snapshots and drop tokens, and checks of settings that exclude each other."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from sct.errors import UserError
from sct.models.grid import presence
from sct.models.reducers.base import Reducer, Reduction
from sct.models.stems.base import Stem
from sct.models.tokens import Tokens

# masks of a token over the sets sum to 1, up to rounding
PRESENCE_TOLERANCE = 1e-3


def tap_blocks(taps: int | Sequence[int], *, depth: int) -> tuple[int, ...]:
    """The blocks to tap, from a list of blocks or a number m of taps (i-th tap: block 1 + i * depth // (m + 1))."""
    if depth == 0:  # without blocks, every tap is the embedding
        return (0,) * (taps if isinstance(taps, int) else len(taps))
    if isinstance(taps, int):
        return tuple(1 + i * depth // (taps + 1) for i in range(1, taps + 1))
    if any(not 1 <= block <= depth for block in taps) or sorted(set(taps)) != list(taps):
        raise UserError(f"encoder.taps={list(taps)} must be ascending blocks between 1 and encoder.depth={depth}.")
    return tuple(taps)


def check_pruning(
    *,
    gate: Callable[..., nn.Module] | None,
    stem: Callable[..., Stem] | None,
    attention: Callable[..., nn.Module] | None,
    reducer: Callable[..., Reducer] | None,
    class_token: bool,
) -> None:
    """UserError where gate, attention and reducer cannot be combined."""
    if gate is not None and (stem is None or attention is None):
        raise UserError(
            "encoder.gate needs the features of a stem, and an attention that can skip rows: set "
            "encoder.stem and encoder.attention (see configs/encoder/apformer.yaml), or encoder.gate=null."
        )
    if attention is not None and reducer is not None:
        raise UserError(
            "encoder.attention prunes inside attention and encoder.reducer drops tokens. The two together are not "
            "supported: set one of them to null."
        )
    if attention is not None and class_token:
        raise UserError("encoder.attention works on patch tokens only; set encoder.class_token=false.")


def check_options(
    *, init_std: float, plain_only: Mapping[str, bool], pyramid_embed: bool, stem: Callable[..., Stem] | None
) -> None:
    """UserError for a spread that is not positive, and where an option has nothing to act on.

    plain_only: settings of plain attention by name, where another attention replaces it.
    """
    if init_std <= 0:
        raise UserError(f"encoder.init_std={init_std}: choose a standard deviation above 0, such as 0.02.")
    for name, value in plain_only.items():
        if value:
            raise UserError(
                f"encoder.{name}=true is a part of plain attention, and encoder.attention replaces plain attention: "
                f"set encoder.{name}=false, or encoder.attention=null and encoder.gate=null."
            )
    if pyramid_embed and stem is None:
        raise UserError(
            "encoder.pyramid_embed=true projects the maps of a stem, and this encoder has no stem: set encoder.stem "
            "(see configs/variant/primus_v3.yaml), or encoder.pyramid_embed=false."
        )


@torch.no_grad()
def check_partition(tokens: Tokens, reduction: Reduction, *, num_tokens: int) -> None:
    """UserError unless every token that was alive is in exactly one of the two sets of a reduction."""
    before, live, dropped = (
        presence(part, num_tokens=num_tokens) for part in (tokens, reduction.live, reduction.dropped)
    )
    wrong = int(((live + dropped - before).abs() > PRESENCE_TOLERANCE).any(dim=0).sum())
    if wrong:
        raise UserError(
            f"The reducer puts the tokens of {wrong} place(s) of the grid into both sets or into none: each token that "
            "it gets must be in Reduction.live or in Reduction.dropped (docs/how-to/add-a-method.md)."
        )


def check_stages(reducer: Reducer, *, depth: int, class_token: bool) -> None:
    """UserError where this encoder cannot use the reducer."""
    blocks, first = list(reducer.blocks), int(reducer.inside_block or bool(reducer.wants))
    if sorted(set(blocks)) != blocks or not blocks or not first <= blocks[0] <= blocks[-1] <= depth:
        raise UserError(
            f"encoder.reducer.blocks={blocks} must be ascending block numbers between {first} and "
            f"encoder.depth={depth}"
            + (": this method acts inside a block." if first else " (0: the embedding).")
            + " Set pruning.blocks."
        )
    reentry = reducer.reenter_before
    if reentry is not None and not blocks[-1] < reentry <= depth:
        raise UserError(
            f"{type(reducer).__name__} lets dropped tokens re-enter before block {reentry} of encoder.depth={depth}, "
            f"but encoder.reducer.blocks={blocks} drops tokens in that block or later: prune before block {reentry}."
        )
    assert not (reducer.merges and reentry is not None), (
        "merged tokens get the features of their parent, they do not re-enter"
    )
    if "class_row" in reducer.wants and not class_token:
        raise UserError(f"{type(reducer).__name__} scores tokens by the class token; set encoder.class_token=true.")
