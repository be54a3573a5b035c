"""What every pruning method is to the encoder.

Letters: B batch, n tokens alive, K tokens kept, C width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats, Scheduled
from sct.models.tokens import Encoded, HeadOutput, TokenOutput, Tokens


@dataclass
class Reduction:
    """live goes on to the next block, dropped waits for the completion; losses and aux as in `Encoded`.

    early_output: what a head said of these tokens, those that leave keep it (DToP).
    auxiliary: what a head said of the whole grid, in training alone: judged by the task's loss and then forgotten.
    parent: of a method that merges, the places of the tokens that the dropped ones were merged into, in the shape of
    dropped.index. A parent may be dropped too, here or later; both have a place in the grid.
    """

    live: Tokens
    dropped: Tokens
    early_output: TokenOutput | None = None
    auxiliary: HeadOutput | None = None
    parent: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    aux: dict[str, Tensor] = field(default_factory=dict)


class Reducer(Scheduled, ABC):
    """A pruning method: where it acts, what it wants from attention, and the reduction itself.

    Built by the encoder with its `FeatureSpec`; `blocks` counts from 1, 0 being the embedding, of which there are no
    `AttentionStats`. `inside_block` prunes between attention and MLP instead of after the block; `wants` names the
    fields of `AttentionStats` that it reads, of that block's patch tokens; `masks` says what a mask of the live tokens
    acts on in later blocks: attention (the token is seen by none but itself) or activation (its MLP update is
    multiplied by the mask). `freezes_encoder` trains the method and what follows the encoder, and leaves the encoder
    as it is. `by_image` keeps a different number of tokens of every image, so that the cost depends on what is in it.

    Every place must end in exactly one set. What becomes of dropped tokens: they wait for the completion; or, with
    `reenter_before`, they join the live ones again in front of that block, as they were; or, with `merges`, every
    `Reduction` names their parents, and behind the last norm they are equal to these. In both latter cases the final
    set is the whole grid, and a completion gets no dropped set. Features of live tokens may be changed (merged), and
    `Tokens.key_bias` of live tokens is added to their logits as keys in later attention.

    A module that is part of a reducer, or the reducer, says `small_gradients = True` where the gradients of its
    parameters are tiny (scorers): the optimizer then gives them its `reducer_eps`.
    """

    inside_block: bool = False
    wants: tuple[str, ...] = ()
    masks: Literal["attention", "activation"] = "attention"
    freezes_encoder: bool = False
    by_image: bool = False
    reenter_before: int | None = None
    merges: bool = False

    def __init__(self, *, blocks: Sequence[int]) -> None:
        super().__init__()
        self.blocks = tuple(blocks)

    @property
    def restores(self) -> bool:
        """Whether the encoder brings dropped tokens back, so that its final set is the whole grid."""
        return self.merges or self.reenter_before is not None

    @property
    def counted_at(self) -> tuple[int, ...]:
        """The blocks at which the number of tokens alive changes, one for each of `Encoded.alive`."""
        return self.blocks if self.reenter_before is None else (*self.blocks, self.reenter_before)

    @abstractmethod
    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C) and dropped (B, n - K, C), both in spatial order.

        stage: which of `blocks`, from 0. Several windows may be computed at the same time: what belongs to an image
        goes with its tokens (a subclass of `Tokens`) or into the `Reduction`, never to `self`. Training may run in
        mixed precision: decide in `full_precision`.
        """

    def finish(self, encoded: Encoded) -> None:
        """Called with the features after the last block: what spans all stages (a budget) goes into `encoded`.

        `encoded.final` has passed the encoder's last norm. The dropped sets, which may be rewritten, have not: a
        completion gives each stage a norm of its own. Merged tokens are still merged; tokens that
        re-entered are in the final set and, as they were dropped, in the set of their stage.
        """


def keep_count(num_tokens: int, *, ratio: float, rounding: str = "nearest") -> int:
    """K = (1 - r) n, at least 1, as a whole number.

    `nearest` rounds, halves upwards (the STP paper), `floor` rounds down (its program), `ceil` up (EViT).
    Exact in decimal: floats would turn 1728 * (1 - 0.9) into 172.79999999999998 and 10 * (1 - 0.9) into 0.99...
    """
    exact = (1 - Fraction(str(ratio))) * num_tokens
    # int, not math.ceil, which torch.compile cannot trace on a fraction
    parts = exact.denominator
    up = {"nearest": Fraction(1, 2), "floor": Fraction(0), "ceil": Fraction(parts - 1, parts)}[rounding]
    return max(1, int(exact + up))


def check_ratio(ratio: float) -> None:
    """UserError for a share to drop that leaves nothing, or less than nothing."""
    if not 0.0 <= ratio < 1.0:
        raise UserError(f"encoder.reducer.ratio={ratio} must be at least 0 (keep all) and below 1.")


def hard_top_k(scores: Tensor, *, k: int) -> Tensor:
    """1 at the k highest of scores (B, n), else 0, in the type of the scores."""
    return torch.zeros_like(scores).scatter(1, scores.topk(k, dim=1).indices, 1.0)


def split_order(hard: Tensor) -> Tensor:
    """Positions of the ones of a 0/1 mask (B, n), ascending, then of the zeros, ascending: (B, n)."""
    n = hard.shape[1]
    # every token has a key of its own: the formats networks are exported to know no stable sort
    keys = torch.arange(n, device=hard.device) - n * hard.long()
    return keys.argsort(dim=1)


def split_top_k(scores: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    """Positions of the k highest of scores (B, n) and of the others, both ascending: (B, k) and (B, n - k)."""
    order = split_order(hard_top_k(scores, k=k))
    return order[:, :k], order[:, k:]


def full_precision(device_type: str) -> AbstractContextManager:
    """Switches mixed precision off where it is on: in half precision scores of many tokens are equal."""
    mixed = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if mixed else nullcontext()
