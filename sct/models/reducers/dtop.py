"""Dynamic Token Pruning (DToP): a token exits early when a head inside the encoder predicts it with high confidence.

Letters: B batch, N tokens of the grid, n tokens alive (T in a packed set), E tokens that exit, C width, Q classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.exits import merge_stages
from sct.models.heads import ATMHead, FCNHead, grade
from sct.models.reducers.base import Reducer, Reduction, full_precision, keep_count, split_top_k
from sct.models.tokens import Encoded, FeatureSpec, TokenOutput, Tokens
from sct.runtime.precision import at_least_float32

HEADS = ("atm", "fcn")
CONTEXTS = ("remove", "top_share", "average", "topk", "average_topk")
MODES = ("direct", "finetune", "retrain")


class DToP(Reducer):
    """After each of `blocks` a head predicts the tokens alive; tokens with confidence >= p0 exit (section 3.2).

    Exited tokens pass no further block, in training too. `Encoded.early` has their predictions, and decoders that
    predict token by token keep them; for other decoders DToP is only a pruning rule. With `p0=1` no token exits.

    `context` (section 3.4, table 5) is what stays of the confident tokens as context for the tokens that go on:
    - `remove`: nothing
    - `topk`: the `k` most confident tokens of each predicted class
    - `average`: for each predicted class the mean of the exited tokens, as a token without a place
    - `average_topk`: both
    - `top_share`: in every image the most confident `share` of the tokens alive exits; p0 is not used
    All classes are treated in the same way, also background. Overlapping regions need head=fcn; `grade` defines their
    confidence and class.

    `mode` (table 1):
    - `direct`: all heads are trained on all tokens; tokens exit only in evaluation
    - `finetune`: heads, completion and decoder are trained with pruning, the encoder is frozen (start it with
      `init=RUN`, where RUN was trained with mode=direct)
    - `retrain`: everything is trained with pruning
    The paper takes finetune for all that follows its table 1; direct is its "@Direct". The default is retrain, since
    finetune needs a run to start from: `+variant=dtop_finetune init=RUN`.

    The tokens that reach the end pass the encoder's last norm before the decoder's head; an early head gets the tokens
    of its block without a norm, and its own projection is followed by one (ATM: LayerNorm, FCN: BatchNorm).

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    head: kind of the head after each pruning block: atm or fcn
    p0: confidence from which tokens exit; 1: no token exits
    k: number of most confident tokens of each class that stay with context=topk or average_topk
    context: which confident tokens stay as context: remove, topk, average, average_topk or top_share
    share: share of the tokens alive that exits with context=top_share
    mode: direct (tokens exit only in evaluation), finetune (train heads, completion and decoder only) or retrain (train
        everything with pruning)
    atm: settings of the heads with head=atm
    fcn: settings of the heads with head=fcn
    """

    by_image = True
    changeable = ("p0", "k", "context", "share")
    training_only = ("mode",)

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
            raise UserError(f"encoder.reducer.p0={p0} must be above 0 and at most 1 (1: no token exits).")
        if k < 1:
            raise UserError(
                f"encoder.reducer.k={k} must be at least 1. To keep no token, set encoder.reducer.context=remove."
            )
        if not 0.0 < share < 1.0:
            raise UserError(f"encoder.reducer.share={share} must lie between 0 and 1.")
        for name, value, choices in (("head", head, HEADS), ("context", context, CONTEXTS), ("mode", mode, MODES)):
            if value not in choices:
                raise UserError(f"encoder.reducer.{name}={value!r} must be one of {', '.join(choices)}.")
        if spec.num_classes < 1:
            raise UserError("DToP predicts inside the encoder; give the encoder num_classes.")
        if spec.overlapping and head == "atm":
            raise UserError(
                "encoder.reducer.head=atm needs classes that exclude each other, but data has overlapping regions. "
                "Set encoder.reducer.head=fcn (and decoder=fcn), or data.regions=null with loss=dice_ce."
            )
        self.p0, self.k, self.context, self.share, self.mode = p0, k, context, share, mode
        self.num_tokens, self.overlapping = spec.num_tokens, spec.overlapping
        # with regions, one more group for tokens that are in no region
        self.num_groups = spec.num_classes + int(spec.overlapping)
        self.freezes_encoder = mode == "finetune"
        make = {"atm": atm, "fcn": fcn}[head]
        self.heads = nn.ModuleList(make(spec.dim, num_classes=spec.num_classes) for _ in self.blocks)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        """tokens (B, n, C) or packed -> live and dropped, packed where the number of tokens differs between images."""
        prunes = (self.p0 < 1 or self.context == "top_share") and not (self.training and self.mode == "direct")
        if not prunes:
            # the same tensors, not packed: results are equal to the last bit
            output = self.judge(tokens, stage=stage) if self.training else None
            return Reduction(tokens, tokens.take(tokens.index[:, :0]), output)
        output = self.judge(tokens, stage=stage)
        confidence, predicted = grade(output, overlapping=self.overlapping)
        # tokens of low confidence stay
        confidence = -self.ranked(-confidence, tokens)
        # mean tokens of earlier stages do not exit and are not ranked
        confidence = confidence.masked_fill(tokens.index == self.num_tokens, 0.0)
        aux = {f"confidence_{stage + 1}": confidence}
        if self.context == "top_share":
            n = tokens.x.shape[1]
            keep, drop = split_top_k(-confidence, k=keep_count(n, ratio=self.share))
            return Reduction(tokens.take(keep), tokens.take(drop), output, aux=aux)
        group = tokens.images() * self.num_groups + predicted
        exits = confidence >= self.p0
        if self.context in ("topk", "average_topk"):
            exits &= rank_in_group(confidence, group) >= self.k
        live, dropped = tokens.select(~exits), tokens.select(exits)
        if self.context in ("average", "average_topk"):
            live = append_means(live, dropped, group[exits], num_classes=self.num_groups, place=self.num_tokens)
        return Reduction(live, dropped, output, aux=aux)

    def judge(self, tokens: Tokens, *, stage: int) -> TokenOutput:
        """Output of a stage's head for its tokens, in float32 under mixed precision too: it decides who exits."""
        with full_precision(tokens.x.device.type):
            return self.heads[stage](replace(tokens, x=at_least_float32(tokens.x)))

    def finish(self, encoded: Encoded) -> None:
        """Merges the predictions of all stages."""
        if encoded.early_outputs:
            encoded.early = merge_stages(encoded, losses=self.training)


def rank_in_group(values: Tensor, group: Tensor) -> Tensor:
    """Rank of every value within its group, from 0 for the highest; of equal values the first comes first."""
    flat, groups = values.flatten(), group.flatten()
    order = flat.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order].contiguous()
    ranks = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(ranks).scatter(0, order, ranks).reshape(values.shape)


def append_means(live: Tokens, exited: Tokens, group: Tensor, *, num_classes: int, place: int) -> Tokens:
    """The live set (1, T, C) with one mean token for each group of exited tokens (1, E, C), at the end of its image.

    group (E,) = image x Q + predicted class. The mean tokens have the index `place`.
    """
    B = live.batch_size
    counts = torch.bincount(group, minlength=B * num_classes)
    groups = counts.nonzero().squeeze(1)
    sums = exited.x.new_zeros(B * num_classes, exited.x.shape[-1]).index_add(0, group, exited.x[0])
    images = torch.cat([live.images()[0], groups // num_classes])
    order = images.argsort(stable=True)
    x = torch.cat([live.x[0], sums[groups] / counts[groups].unsqueeze(1)])
    index = torch.cat([live.index[0], torch.full_like(groups, place)])
    lengths = tuple(torch.bincount(images, minlength=B).tolist())
    return Tokens(x[order].unsqueeze(0), index[order].unsqueeze(0), lengths=lengths)
