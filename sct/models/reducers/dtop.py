"""Dynamic Token Pruning (DToP): tokens that an early head is sure of leave with its prediction.

Letters: B batch, N tokens of the grid, n tokens alive (T of all images, packed), E tokens that exit, C width,
Q classes.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.exits import merge_stages
from sct.models.heads import ATMHead, FCNHead, grade
from sct.models.reducers.base import Reducer, Reduction, keep_count, split_top_k
from sct.models.tokens import Encoded, FeatureSpec, Tokens

HEADS = ("atm", "fcn")
CONTEXTS = ("remove", "top_share", "average", "topk", "average_topk")
MODES = ("direct", "finetune", "retrain")


class DToP(Reducer):
    """After each of `blocks` a head of its own grades the tokens alive; those of confidence >= p0 exit (section 3.2).

    Exited tokens are computed no further, in training too; `Encoded.early` has their predictions, which decoders
    that predict token by token keep. For other decoders DToP is a pruning rule. `p0=1` exits nothing.

    `context` (section 3.4, table 5) says what is left of confident tokens for those that go on: nothing
    (`remove`); the `k` most confident of each predicted class stay (`topk`); one mean token per predicted class,
    without a place (`average`); both (`average_topk`). `top_share` exits the most confident `share` of the tokens
    alive of every image instead, whatever p0. Every class is treated alike, background too;
    of overlapping regions, see `grade` for confidence and class, which need head=fcn.

    `mode` (table 1): `direct` prunes only after training, all heads being trained on all tokens; `finetune` trains
    heads, completion and decoder with pruning and leaves the encoder as it is (start it with `init=RUN`, a run of
    mode=direct); `retrain` trains everything with pruning. `head` is built by `atm` or `fcn`.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    head: kind of the head after every pruning block: atm or fcn
    p0: confidence from which tokens exit; 1: none exit
    k: most confident tokens of each class that stay as context
    context: what is left of confident tokens: remove, topk, average, average_topk or top_share
    share: share of the alive tokens that exits with context=top_share
    mode: direct (prune only after training), finetune (train heads, completion and decoder only) or retrain (train
        everything with pruning)
    atm: settings of the heads with head=atm
    fcn: settings of the heads with head=fcn
    """

    by_image = True

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        blocks: Sequence[int] = (6, 8),
        head: Literal["atm", "fcn"] = "atm",
        p0: float = 0.95,
        k: int = 5,
        context: Literal["remove", "top_share", "average", "topk", "average_topk"] = "topk",
        share: float = 0.35,
        mode: Literal["direct", "finetune", "retrain"] = "retrain",
        atm: Callable[..., nn.Module] = ATMHead,
        fcn: Callable[..., nn.Module] = FCNHead,
    ) -> None:
        super().__init__(blocks=blocks)
        if not 0.0 < p0 <= 1.0:
            raise UserError(f"encoder.reducer.p0={p0} must be above 0 and at most 1 (nothing exits).")
        if k < 1:
            raise UserError(f"encoder.reducer.k={k} must be at least 1; for none, set encoder.reducer.context=remove.")
        if not 0.0 < share < 1.0:
            raise UserError(f"encoder.reducer.share={share} must lie between 0 and 1.")
        for name, value, choices in (("head", head, HEADS), ("context", context, CONTEXTS), ("mode", mode, MODES)):
            if value not in choices:
                raise UserError(f"encoder.reducer.{name}={value!r} must be one of {', '.join(choices)}.")
        if spec.num_classes < 1:
            raise UserError("DToP predicts inside the encoder; give the encoder num_classes.")
        if spec.overlapping and head == "atm":
            raise UserError(
                "encoder.reducer.head=atm asks for classes that exclude each other, but data has overlapping regions. "
                "Set encoder.reducer.head=fcn (and decoder=fcn), or data.regions=null with loss=dice_ce."
            )
        self.p0, self.k, self.context, self.share, self.mode = p0, k, context, share, mode
        self.num_tokens, self.overlapping = spec.num_tokens, spec.overlapping
        # a token may be in no region
        self.num_groups = spec.num_classes + int(spec.overlapping)
        self.freezes_encoder = mode == "finetune"
        make = {"atm": atm, "fcn": fcn}[head]
        self.heads = nn.ModuleList(make(spec.dim, num_classes=spec.num_classes) for _ in self.blocks)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) or packed -> live and dropped, packed where images exit different numbers."""
        prunes = (self.p0 < 1 or self.context == "top_share") and not (self.training and self.mode == "direct")
        if not prunes:
            # the very same tensors, not packed: nothing changes by a bit
            output = self.heads[stage](tokens) if self.training else None
            return Reduction(tokens, tokens.take(tokens.index[:, :0]), output)
        output = self.heads[stage](tokens)
        confidence, predicted = grade(output, overlapping=self.overlapping)
        # means of earlier stages neither exit nor compete
        confidence = confidence.masked_fill(tokens.index == self.num_tokens, 0.0)
        aux = {f"confidence_{stage + 1}": confidence}
        if self.context == "top_share":
            n = tokens.x.shape[1]
            stay, go = split_top_k(-confidence, k=keep_count(n, ratio=self.share))
            return Reduction(tokens.take(stay), tokens.take(go), output, aux=aux)
        group = tokens.images() * self.num_groups + predicted
        exits = confidence >= self.p0
        if self.context in ("topk", "average_topk"):
            exits &= rank_in_group(confidence, group) >= self.k
        live, dropped = tokens.select(~exits), tokens.select(exits)
        if self.context in ("average", "average_topk"):
            live = append_means(live, dropped, group[exits], num_classes=self.num_groups, place=self.num_tokens)
        return Reduction(live, dropped, output, aux=aux)

    def finish(self, encoded: Encoded) -> None:
        """Puts the predictions of all stages together."""
        if encoded.early_outputs:
            encoded.early = merge_stages(encoded, losses=self.training)


def rank_in_group(values: Tensor, group: Tensor) -> Tensor:
    """How many of the same group have a higher value, or the same and an earlier place; shapes as given."""
    flat, groups = values.flatten(), group.flatten()
    order = flat.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order].contiguous()
    ranks = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(ranks).scatter(0, order, ranks).reshape(values.shape)


def append_means(live: Tokens, exited: Tokens, group: Tensor, *, num_classes: int, place: int) -> Tokens:
    """The live set (1, T, C) with one mean of the exited tokens (1, E, C) per group, at the end of its image.

    group (E,) = image x Q + predicted class. The new tokens have the index `place`.
    """
    B = live.batch_size
    counts = torch.bincount(group, minlength=B * num_classes)
    found = counts.nonzero().squeeze(1)
    sums = exited.x.new_zeros(B * num_classes, exited.x.shape[-1]).index_add(0, group, exited.x[0])
    images = torch.cat([live.images()[0], found // num_classes])
    order = images.argsort(stable=True)
    x = torch.cat([live.x[0], sums[found] / counts[found].unsqueeze(1)])
    index = torch.cat([live.index[0], torch.full_like(found, place)])
    lengths = tuple(torch.bincount(images, minlength=B).tolist())
    return Tokens(x[order].unsqueeze(0), index[order].unsqueeze(0), lengths=lengths)
