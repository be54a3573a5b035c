"""The values that flow through a segmenter: tokens, what an encoder gives, what a completion gives.

Letters: B batch, N tokens of the whole grid, n tokens alive, K tokens kept, P prefix tokens, C and D widths,
Q classes (or overlapping regions), S spatial size (2 or 3 dims).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass
class Tokens:
    """A set of patch tokens, each with its place in the grid.

    x (B, n, C) features; index (B, n) flat place in the grid, ascending in every image. Place N is no place:
    a fused token, which helps the others and is not part of the grid.
    mask (B, n), in training of methods that mask: 1 for tokens of this set, 0 for those of another.
    gate (B, n): the running product of straight-through decisions, ones that carry the scorers' gradient.
    key_bias (B, n): what later attention adds to the logits of these tokens as keys (of merged ones, the log of their
    number).
    lengths: where images keep different numbers, x (1, T, C) and index (1, T) hold them one after another, and
    this says how many each has (T is the sum); None where all have n.
    A method that needs more of every token (how many it was merged from) takes a subclass with a tensor (B, n, ...)
    beside these: it goes with its tokens from stage to stage.
    """

    x: Tensor
    index: Tensor
    mask: Tensor | None = None
    gate: Tensor | None = None
    key_bias: Tensor | None = None
    lengths: tuple[int, ...] | None = None

    @property
    def batch_size(self) -> int:
        return self.x.shape[0] if self.lengths is None else len(self.lengths)

    def take(self, order: Tensor) -> Self:
        """The tokens at positions `order` (B, K) of this set, in that order; all images keep K."""
        assert self.lengths is None
        return self.changed(lambda values: gather_tokens(values, order))

    def select(self, keep: Tensor) -> Self:
        """The tokens where keep (B, n) or (1, T) is true, in order; every image keeps its own number."""
        assert self.mask is None
        assert self.gate is None
        counts = torch.stack([part.sum() for part in self.per_image(keep)]).tolist()
        where = keep.flatten().nonzero().squeeze(1)
        chosen = self.changed(lambda values: values.flatten(0, 1).index_select(0, where).unsqueeze(0))
        return replace(chosen, lengths=tuple(counts))

    def changed(self, function: Callable[[Tensor], Tensor]) -> Self:
        """What is known of every token passed through `function`."""
        known = {one.name: getattr(self, one.name) for one in fields(self)}
        changes: dict[str, Any] = {name: function(value) for name, value in known.items() if isinstance(value, Tensor)}
        return replace(self, **changes)

    def per_image(self, values: Tensor) -> tuple[Tensor, ...]:
        """values (B, n, ...) or (1, T, ...) of these tokens as one tensor (n_b, ...) an image."""
        return values.unbind(0) if self.lengths is None else values.squeeze(0).split(self.lengths)

    def images(self) -> Tensor:
        """The number of the image of every token, in the shape of index."""
        numbers = torch.arange(self.batch_size, device=self.index.device)
        if self.lengths is None:
            return numbers.unsqueeze(1).expand_as(self.index)
        return numbers.repeat_interleave(torch.tensor(self.lengths, device=numbers.device)).unsqueeze(0)

    def count(self) -> Tensor:
        """How many tokens of this set every image has: (B,) float, on the CPU where it follows from the shapes."""
        if self.mask is not None:
            return self.mask.detach().sum(dim=1).float()
        if self.lengths is not None:
            return torch.tensor(self.lengths, dtype=torch.float32, device="cpu")
        B, n, _ = self.x.shape
        return torch.full((B,), n, dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class FeatureSpec:
    """What an encoder or a completion publishes; the next part is built from it.

    num_stages is the number of pruning stages, num_taps the number of dense snapshots for skip connections.
    pyramid_channels: widths of a hybrid's convolutional features, finest first; the last have twice the
    resolution of the token grid, and each one before twice that of the next. depth and mlp_ratio are the
    encoder's; num_classes is known where the encoder itself predicts (early exits). overlapping: the logits will be
    of regions, which a voxel may be in several of (sigmoid), and not of classes (softmax). prunes_rows: some tokens
    ask nothing in attention (APFormer), though they stay. restored: the encoder itself brings dropped tokens back
    (they re-enter, or get the features of the token they were merged into), so that its final set is the whole grid.
    """

    image_size: tuple[int, ...]
    in_channels: int
    patch_size: int
    dim: int
    num_heads: int
    num_prefix: int = 0
    num_stages: int = 0
    num_taps: int = 0
    pyramid_channels: tuple[int, ...] = ()
    depth: int = 0
    mlp_ratio: float = 4.0
    num_classes: int = 0
    overlapping: bool = False
    prunes_rows: bool = False
    restored: bool = False

    @property
    def num_dropped(self) -> int:
        """How many dropped sets a completion gets: one a stage, or none where the encoder brings the tokens back."""
        return 0 if self.restored else self.num_stages

    @property
    def num_depths(self) -> int:
        """The highest `pruning_depth`: stages of a reducer, or 1 where rows are pruned."""
        return max(self.num_stages, int(self.prunes_rows))

    @property
    def spatial_dims(self) -> int:
        return len(self.image_size)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(size // self.patch_size for size in self.image_size)

    @property
    def num_tokens(self) -> int:
        return math.prod(self.grid)


@dataclass
class HeadOutput:
    """What a segmentation head says of every place of the token grid.

    masks (B, Q, *grid): class logits of a pixel-wise head, or mask logits of a query head, whose classes
    (B, Q, 2) are the logits that a class is present or not. classes is None for a pixel-wise head.
    """

    masks: Tensor
    classes: Tensor | None = None


@dataclass
class TokenOutput:
    """What a segmentation head says of a token set: `HeadOutput` with masks (B, n, Q) in the shape of the set."""

    tokens: Tokens
    masks: Tensor
    classes: Tensor | None = None


@dataclass
class Early:
    """Predictions of tokens that left the encoder early (DToP).

    canvas (B, Q, N): what the last head that saw a place said of it (`HeadOutput.masks` of all stages merged);
    present (B, Q, N): log-probability of every class by that head, None for heads that classify pixels;
    exited (B, N) bool: places whose word is final; stages: the merged output after every stage, for their losses.
    """

    canvas: Tensor
    exited: Tensor
    present: Tensor | None = None
    stages: list[HeadOutput] = field(default_factory=list)


@dataclass
class Encoded:
    """Sparse features: `final`, behind the encoder's last norm, and the `dropped` sets cover the grid exactly once.

    prefix (B, P, C) class token; dropped has one set per pruning stage, empty ones included, or none at all where the
    encoder brought the tokens back; survived: there, one (B, N) a stage, 1 at the places that were alive after it;
    alive: tokens alive after every stage, and last after dropped ones re-entered, (B,) each, those without a place
    included;
    taps: dense snapshots (B, N, C) for skip connections; pyramid: convolutional features (B, C_i, *S_i), finest first;
    gate (B, 2, *grid): logits that a patch is background or foreground, by which tokens were told to ask nothing;
    query_mask (B, N) bool: those that were not told so;
    early_outputs: what the pruning method's own head said of the tokens that it saw, one a stage; early: that merged;
    auxiliary: what heads said that serve training alone, each judged by the task's loss as the decoder's is;
    losses: what the pruning method adds to the loss, weighted, by name; aux: scores and other values for logs, by name.
    """

    grid: tuple[int, ...]
    final: Tokens
    prefix: Tensor
    dropped: list[Tokens] = field(default_factory=list)
    survived: list[Tensor] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)
    taps: list[Tensor] = field(default_factory=list)
    pyramid: list[Tensor] = field(default_factory=list)
    gate: Tensor | None = None
    query_mask: Tensor | None = None
    early_outputs: list[TokenOutput] = field(default_factory=list)
    early: Early | None = None
    auxiliary: list[HeadOutput] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    aux: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_depths(self) -> int:
        """The highest `pruning_depth`: stages of a reducer, or 1 where rows are pruned."""
        return max(len(self.dropped), len(self.survived), int(self.query_mask is not None))

    @property
    def sets(self) -> list[Tokens]:
        """The dropped sets in order of their stage, then the final one."""
        return [*self.dropped, self.final]


@dataclass
class Dense:
    """Features of the whole grid: x (B, N, C), and taps (B, N, C) for skip connections (may be empty).

    early and live: predictions of tokens that left early and the tokens that did not, for decoders that predict
    token by token; None once a completion has mixed the tokens. depth (B, N): how many pruning stages every place
    survived, as `grid.pruning_depth` says; None where a completion does not tell.
    """

    grid: tuple[int, ...]
    x: Tensor
    taps: list[Tensor] = field(default_factory=list)
    pyramid: list[Tensor] = field(default_factory=list)
    early: Early | None = None
    live: Tokens | None = None
    depth: Tensor | None = None


@dataclass
class Decoded:
    """What a decoder gives: logits (B, Q, *S), and the output of its head on the token grid where it has one.

    aux: values for logs, by name: (B,), or one for all images.
    """

    logits: Tensor
    head: HeadOutput | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Prediction:
    """logits (B, Q, *S), the head they came from, and the sparse features (pruning depth, losses of a reducer).

    aux: the decoder's values for logs, by name.
    """

    logits: Tensor
    encoded: Encoded
    head: HeadOutput | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)


def gather_tokens(values: Tensor, index: Tensor) -> Tensor:
    """What is known of the tokens, values (B, N, ...), at index (B, K): (B, K, ...)."""
    places = index.reshape(*index.shape, *[1] * (values.ndim - 2))
    return values.gather(1, places.expand(-1, -1, *values.shape[2:]))
