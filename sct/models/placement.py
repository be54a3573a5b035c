"""Where an encoder keeps snapshots and drops tokens, and which of its parts do not go together."""

from collections.abc import Callable, Sequence

from torch import nn

from sct.errors import UserError
from sct.models.reducers.base import Reducer
from sct.models.stems.base import Stem


def tap_blocks(taps: int | Sequence[int], *, depth: int) -> tuple[int, ...]:
    """The blocks to tap, from a list or a number of them (i-th of m: 1 + i * depth // (m + 1))."""
    if depth == 0:  # no block at all: the embedding itself serves as every tap
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
    """UserError where gate, attention and reducer do not go together."""
    if gate is not None and (stem is None or attention is None):
        raise UserError(
            "encoder.gate judges the features of a stem and prunes rows of an attention that can skip them: set "
            "encoder.stem and encoder.attention (see configs/encoder/apformer.yaml), or encoder.gate=null."
        )
    if attention is not None and reducer is not None:
        raise UserError(
            "encoder.attention prunes inside attention and encoder.reducer drops tokens; together they are not "
            "supported: set one of them to null."
        )
    if attention is not None and class_token:
        raise UserError("encoder.attention works on the patches of a whole grid; set encoder.class_token=false.")


def check_stages(reducer: Reducer, *, depth: int, class_token: bool) -> None:
    """UserError where a reducer cannot work in this encoder."""
    blocks, first = list(reducer.blocks), int(reducer.inside_block or bool(reducer.wants))
    if sorted(set(blocks)) != blocks or not blocks or not first <= blocks[0] <= blocks[-1] <= depth:
        raise UserError(
            f"encoder.reducer.blocks={blocks} must be ascending block numbers between {first} and "
            f"encoder.depth={depth}" + (": this method acts inside a block." if first else " (0: the embedding).")
        )
    back = reducer.reenter_before
    if back is not None and not blocks[-1] < back <= depth:
        raise UserError(
            f"{type(reducer).__name__} lets dropped tokens re-enter before block {back} of encoder.depth={depth}, but "
            f"encoder.reducer.blocks={blocks} drops some later: prune before that block."
        )
    assert not (reducer.merges and back is not None), (
        "merged tokens get the features of their parent, they do not re-enter"
    )
    if "class_row" in reducer.wants and not class_token:
        raise UserError(f"{type(reducer).__name__} scores tokens by the class token; set encoder.class_token=true.")
