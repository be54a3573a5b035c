"""Base class of reducers (the pruning methods), their result, and helpers to choose tokens.

Letters: B batch, n tokens alive, K tokens kept, C width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from sct.config.parts import part
from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats, Scheduled
from sct.models.tokens import Encoded, HeadOutput, Scores, TokenOutput, Tokens
from sct.runtime.precision import full_precision as full_precision  # methods find all helpers here

# scores (n,) of the tokens of an image, their places (n,) in the grid, the image's number in the batch -> scores (n,)
Rescore = Callable[[Tensor, Tensor, int], Tensor]


@dataclass
class Reduction:
    """Result of one pruning stage: `live` goes on to the next block, `dropped` is kept for the completion.

    early_output: output of the method's head for the tokens of this stage; tokens that exit keep it (DToP).
    auxiliary: output of a head for the whole grid, only in training; only the task's loss uses it.
    parent: for a method that merges, the places of the tokens into which the dropped tokens were merged, in the shape
    of dropped.index. Tokens and parents have a place in the grid. A parent may be dropped too, here or later.
    scores, losses, aux: as in `Encoded`.
    """

    live: Tokens
    dropped: Tokens
    early_output: TokenOutput | None = None
    auxiliary: HeadOutput | None = None
    parent: Tensor | None = None
    scores: Scores | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    aux: dict[str, Tensor] = field(default_factory=dict)


@part
class Reducer(Scheduled, ABC):
    """A pruning method: the blocks where it prunes, the attention statistics that it reads, and the reduction.

    The encoder builds it with its `FeatureSpec`. Attributes:
    - `blocks`: counted from 1; 0 is the embedding, which has no `AttentionStats`.
    - `inside_block`: prune between attention and MLP instead of after the block.
    - `wants`: the fields of `AttentionStats` that the method reads, for the patch tokens of the block that prunes.
      "float32" beside "head_norms": the block's attention is computed in float32, so that the norms are exact.
    - `masks`: the effect of `Tokens.mask` of live tokens in later blocks. attention: a masked token is seen only by
      itself. activation: the mask multiplies the MLP's update of the token.
    - `freezes_encoder`: train the method and the parts after the encoder, but not the encoder, which stays in
      evaluation mode (no drop-path, no dropout, constant statistics of BatchNorms).
    - `by_image`: the method keeps a different number of tokens for each image, so cost depends on the image's content.
    - `changeable`: settings that a trained network can be evaluated with other values of: they carry no weights.
    - `training_only`: settings that act in training alone.
    - `small_gradients`, of the reducer or a module in it: the gradients of its parameters are tiny (scorers), so the
      optimizer uses `reducer_eps` for them.

    Every place must end in exactly one set. There are three ways for dropped tokens:
    - By default they are kept for the completion.
    - With `reenter_before`, they join the live tokens before that block, with the features that they had.
    - With `merges`, every `Reduction` has their parents; after the last norm they get the features of their parents.
    With the last two ways the final set is the whole grid, and a completion gets no dropped set.
    A method may change the features of live tokens (as merging does), and set `Tokens.key_bias` of live tokens, which
    later attention adds to their logits as keys.
    """

    inside_block: bool = False
    wants: tuple[str, ...] = ()
    masks: Literal["attention", "activation"] = "attention"
    freezes_encoder: bool = False
    by_image: bool = False
    reenter_before: int | None = None
    merges: bool = False
    changeable: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()
    # takes the place of an image's scores in evaluation, see `check_selection`; None: the scores decide
    rescore: Rescore | None = None

    def __init__(self, *, blocks: Sequence[int]) -> None:
        super().__init__()
        self.blocks = tuple(blocks)

    @property
    def restores(self) -> bool:
        """Whether dropped tokens come back inside the encoder, so that the final set is the whole grid."""
        return self.merges or self.reenter_before is not None

    @property
    def counted_at(self) -> tuple[int, ...]:
        """The blocks at which the number of tokens alive changes, one for each entry of `Encoded.alive`."""
        return self.blocks if self.reenter_before is None else (*self.blocks, self.reenter_before)

    @abstractmethod
    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) -> live (B, K, C) and dropped (B, n - K, C), both in spatial order.

        stage: index into `blocks`, from 0. Several windows may be computed at the same time, so values of an image are
        stored with its tokens (in a subclass of `Tokens`) or in the `Reduction`, never in `self`. Training may run in
        mixed precision: compute decisions in `full_precision`.
        """

    def ranked(self, scores: Tensor, tokens: Tokens) -> Tensor:
        """The scores that decide which tokens stay, high ones first, in the shape of tokens.index.

        They are the method's own, unless `rescore` deals out other ones, image by image.
        """
        return scores if self.rescore is None else rescored(scores, tokens, self.rescore)

    def finish(self, encoded: Encoded) -> None:
        """Called after the last block, for terms that depend on all stages (a budget); it may change `encoded`.

        The encoder's last norm was applied to `encoded.final` but not to the dropped sets: a completion has a norm for
        each stage. Dropped sets may be replaced. Merged tokens are still merged. Tokens that re-entered are in the
        final set, and also in the dropped set of their stage, with the features that they had when they were dropped.
        """


def rescored(scores: Tensor, tokens: Tokens, rescore: Rescore) -> Tensor:
    """Scores (B, n) or packed (1, T) of tokens, with other values in each image."""
    images = zip(tokens.per_image(scores), tokens.per_image(tokens.index), strict=True)
    rows = [rescore(values, index, number) for number, (values, index) in enumerate(images)]
    return torch.stack(rows) if tokens.lengths is None else torch.cat(rows).unsqueeze(0)


def keep_count(num_tokens: int, *, ratio: float, rounding: str = "nearest") -> int:
    """K = (1 - r) n as an integer, at least 1.

    rounding: nearest (halves go up; the STP paper), floor (its program) or ceil (EViT).
    The computation is exact in decimal: floats would turn 1728 * (1 - 0.9) into 172.79999999999998 and 10 * (1 - 0.9)
    into 0.99...
    """
    exact = (1 - Fraction(str(ratio))) * num_tokens
    # int and not math.ceil: torch.compile cannot trace math.ceil of a fraction
    parts = exact.denominator
    offset = {"nearest": Fraction(1, 2), "floor": Fraction(0), "ceil": Fraction(parts - 1, parts)}[rounding]
    return max(1, int(exact + offset))


def check_ratio(ratio: float) -> None:
    """UserError where the share to drop is not in [0, 1)."""
    if not 0.0 <= ratio < 1.0:
        raise UserError(f"encoder.reducer.ratio={ratio} must be at least 0 (keep all) and below 1.")


def hard_top_k(scores: Tensor, *, k: int) -> Tensor:
    """1 at the k highest scores of (B, n), else 0, in the dtype of the scores."""
    return torch.zeros_like(scores).scatter(1, scores.topk(k, dim=1).indices, 1.0)


def split_order(hard: Tensor) -> Tensor:
    """Positions of the ones in a 0/1 mask (B, n), ascending, then positions of the zeros, ascending: (B, n)."""
    n = hard.shape[1]
    # all keys are different: formats for export have no stable sort
    keys = torch.arange(n, device=hard.device) - n * hard.long()
    return keys.argsort(dim=1)


def split_top_k(scores: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    """Positions of the k highest scores of (B, n) and of the other scores, both ascending: (B, k) and (B, n - k)."""
    order = split_order(hard_top_k(scores, k=k))
    return order[:, :k], order[:, k:]
