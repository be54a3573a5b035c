"""The values that flow through a segmenter: tokens, and the outputs of encoder, completion and decoder.

Letters: B batch, N tokens of the whole grid, n tokens alive, K tokens kept, P prefix tokens, C and D widths,
Q classes (or overlapping regions), S spatial size (2 or 3 dims).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor


@dataclass
class Tokens:
    """A set of patch tokens, each with its place in the grid.

    x (B, n, C): features.
    index (B, n): flat place in the grid, ascending in every image. Index N marks a token without a place in the grid,
    such as a fused token.
    mask (B, n), in training of methods that mask tokens: 1 for tokens of this set, 0 for tokens of another set.
    gate (B, n): running product of the straight-through decisions. All values are 1; they carry the scorers' gradient.
    key_bias (B, n): added to the logits of these tokens as keys in later attention (for merged tokens, the log of the
    number of tokens merged).
    lengths: None where all images have n tokens. Where images keep different numbers of tokens, the set is packed:
    x (1, T, C) and index (1, T) hold the images one after another, `lengths` has the number of tokens of each image,
    and T is the sum of `lengths`.
    A method that stores another value for each token (such as the number of patches in a merged token) uses a subclass
    with one more tensor (B, n, ...); this tensor goes with its tokens from stage to stage.
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
        """The tokens at positions `order` (B, K) of this set, in that order; every image keeps K tokens."""
        assert self.lengths is None
        return self.changed(lambda values: gather_tokens(values, order))

    def select(self, keep: Tensor) -> Self:
        """The tokens where keep (B, n) or (1, T) is true, in order; images may keep different numbers of tokens."""
        assert self.mask is None
        assert self.gate is None
        counts = torch.stack([part.sum() for part in self.per_image(keep)]).tolist()
        rows = keep.flatten().nonzero().squeeze(1)
        packed = self.changed(lambda values: values.flatten(0, 1).index_select(0, rows).unsqueeze(0))
        return replace(packed, lengths=tuple(counts))

    def changed(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same set with `function` applied to each of its tensors."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        changes: dict[str, Any] = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changes)

    def per_image(self, values: Tensor) -> tuple[Tensor, ...]:
        """values (B, n, ...) or (1, T, ...) of these tokens, split into one tensor (n_b, ...) for each image."""
        return values.unbind(0) if self.lengths is None else values.squeeze(0).split(self.lengths)

    def images(self) -> Tensor:
        """For every token the number of its image, in the shape of `index`."""
        numbers = torch.arange(self.batch_size, device=self.index.device)
        if self.lengths is None:
            return numbers.unsqueeze(1).expand_as(self.index)
        return numbers.repeat_interleave(torch.tensor(self.lengths, device=numbers.device)).unsqueeze(0)

    def count(self) -> Tensor:
        """Number of tokens of this set in every image: (B,) float; on the CPU where the shapes alone give it."""
        if self.mask is not None:
            return self.mask.detach().sum(dim=1).float()
        if self.lengths is not None:
            return torch.tensor(self.lengths, dtype=torch.float32, device="cpu")
        B, n, _ = self.x.shape
        return torch.full((B,), n, dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class FeatureSpec:
    """Description of the features of an encoder or a completion; the next part of the network is built from it.

    num_stages: number of pruning stages. num_taps: number of dense snapshots for skip connections.
    patch_size: voxels of a patch along each axis.
    pyramid_channels: widths of the convolutional feature maps of a hybrid, finest map first. The last map is one step
    of `patch.halvings` finer than the token grid; each map is one step finer than the next one.
    depth, mlp_ratio: the encoder's. mlp_layers: number of linear layers of a block's MLP. num_classes: number of
    classes, 0 where the encoder was built without it; methods that predict inside the encoder need it.
    overlapping: the logits are of regions (sigmoid), and a voxel may be in several regions; false: classes (softmax).
    prunes_rows: a gate switches tokens off as queries in attention (APFormer); the tokens stay in the set.
    restored: the encoder brings dropped tokens back, so that its final set is the whole grid. The tokens re-enter, or
    they get the features of the token into which they were merged.
    """

    image_size: tuple[int, ...]
    in_channels: int
    patch_size: tuple[int, ...]
    dim: int
    num_heads: int
    num_prefix: int = 0
    num_stages: int = 0
    num_taps: int = 0
    pyramid_channels: tuple[int, ...] = ()
    depth: int = 0
    mlp_ratio: float = 4.0
    mlp_layers: int = 2
    num_classes: int = 0
    overlapping: bool = False
    prunes_rows: bool = False
    restored: bool = False

    @property
    def num_dropped(self) -> int:
        """Number of dropped sets that a completion gets: one for each stage, 0 where the encoder brings tokens back."""
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
        return tuple(size // edge for size, edge in zip(self.image_size, self.patch_size, strict=True))

    @property
    def num_tokens(self) -> int:
        return math.prod(self.grid)


@dataclass
class HeadOutput:
    """Output of a segmentation head for the token grid.

    masks (B, Q, *grid): class logits of a pixel-wise head, or mask logits of a query head.
    classes (B, Q, 2): logits of a query head that a class is present or absent; None for a pixel-wise head.
    """

    masks: Tensor
    classes: Tensor | None = None


@dataclass
class TokenOutput:
    """Output of a segmentation head for one token set: as `HeadOutput`, but with one row of masks (B, n, Q) a token."""

    tokens: Tokens
    masks: Tensor
    classes: Tensor | None = None


@dataclass
class Early:
    """Predictions of tokens that left the encoder early (DToP).

    canvas (B, Q, N): for each place the mask logits of the last head that saw the place (the masks of all stages
    merged).
    present (B, Q, N): log-probability that a class is present, from the same head; None for pixel-wise heads.
    exited (B, N) bool: places whose token left early; their prediction is final.
    stages: the merged output after every stage, for the losses of the stages.
    """

    canvas: Tensor
    exited: Tensor
    present: Tensor | None = None
    stages: list[HeadOutput] = field(default_factory=list)


@dataclass(frozen=True)
class Scores:
    """What one pruning stage ranked its tokens by.

    values (B, n): what a scorer says of each token; without noise. index (B, n): places of the tokens.
    num_kept: number of tokens kept, the same for all images.
    alive (B, n): 0 for tokens that an earlier stage masked, else 1; None: all are ranked.
    taught: what the loss teaches the values as logits. worth: whether the patch is worth to be kept; share: the same,
    as probabilities that keep num_kept tokens; None: nothing.
    ranks (B, n): the higher, the sooner a token is kept, where that is more than its own value; None: the values.
    """

    values: Tensor
    index: Tensor
    num_kept: int
    alive: Tensor | None = None
    taught: Literal["worth", "share"] | None = None
    ranks: Tensor | None = None


@dataclass
class Encoded:
    """Sparse features: `final` (after the encoder's last norm) and the `dropped` sets cover the grid exactly once.

    prefix (B, P, C): class token.
    dropped: one set for each pruning stage, also where it is empty; no set where the encoder brings tokens back.
    survived: only where the encoder brings tokens back: one (B, N) for each stage, 1 at places alive after the stage.
    alive: number of tokens alive after each stage, (B,) each, tokens without a place included. Where dropped tokens
    re-enter, one more entry has their number after that.
    taps: dense snapshots (B, N, C) for skip connections.
    pyramid: convolutional features (B, C_i, *S_i), finest first.
    gate (B, 2, *grid): logits of the gate that a patch is background or foreground.
    query_mask (B, N) bool: true for tokens that are queries in attention, false for tokens that the gate switched off.
    early_outputs: output of the pruning method's head for the tokens alive, one for each stage. early: all merged.
    auxiliary: outputs of heads that exist only in training; the task's loss is applied to each, as to the decoder's.
    scores: what each pruning stage ranked its tokens by, of methods that rank.
    losses: weighted loss terms of the pruning method, by name. aux: scores and other values for logs, by name.
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
    scores: list[Scores] = field(default_factory=list)
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

    early: predictions of tokens that left early; live: the other tokens. Decoders that predict token by token use
    both; they are None after a completion that mixes tokens.
    depth (B, N): number of pruning stages that every place survived, see `grid.pruning_depth`; None where the
    completion does not set it.
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
    """Output of a decoder: logits (B, Q, *S), and the output of its head on the token grid where it has a head.

    aux: values for logs, by name: (B,), or one value for all images.
    levels: logits (B, Q, *S_i) of coarser levels, finest first, in training with deep supervision.
    """

    logits: Tensor
    head: HeadOutput | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)
    levels: list[Tensor] = field(default_factory=list)


@dataclass
class Prediction:
    """Output of the network: logits (B, Q, *S), the sparse features, and the output of the decoder's head.

    encoded: has the pruning depth and the losses of the reducer. aux: the decoder's values for logs, by name.
    levels: the decoder's logits of coarser levels, see `Decoded`.
    look (B, *grid of the look): logits of the first look that a patch has foreground; in training, where there is one.
    """

    logits: Tensor
    encoded: Encoded
    head: HeadOutput | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)
    levels: list[Tensor] = field(default_factory=list)
    look: Tensor | None = None


def gather_tokens(values: Tensor, index: Tensor) -> Tensor:
    """The rows of values (B, N, ...) at index (B, K): (B, K, ...)."""
    places = index.reshape(*index.shape, *[1] * (values.ndim - 2))
    return values.gather(1, places.expand(-1, -1, *values.shape[2:]))
