"""What the selection of tokens is worth: a trained network with its own choice, a random, the inverted, the best one.

Letters: B windows of a batch, C channels, Q channels of the logits, N tokens of the grid, n tokens that a stage ranks,
S spatial size.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr, wilcoxon
from torch import Tensor

from sct.data.cases import Case
from sct.data.module import SegmentationData
from sct.data.outputs import Outputs
from sct.errors import UserError
from sct.evaluation.metrics import quick_dice
from sct.evaluation.tokens import patch_kinds
from sct.inference import Inferer, Request
from sct.models.adaptive.gate import QueryGate
from sct.models.encoder import ViTEncoder
from sct.models.grid import pruning_depth
from sct.models.reducers.base import Reducer
from sct.models.segmenter import Segmenter
from sct.models.tokens import Encoded
from sct.models.worth import patch_worth

Ranking = Literal["learned", "random", "inverted", "truth"]
RANKINGS: tuple[Ranking, ...] = ("learned", "random", "inverted", "truth")
KINDS = ("all", "foreground", "boundary", "wrong")


def dealt(scores: Tensor, *, order: Tensor) -> Tensor:
    """The scores (n,) of an image, dealt out again: the highest one to the highest of `order` (n,), and so on.

    A threshold or a number of tokens keeps as many tokens of the image as before, but other ones.
    """
    return scores.sort().values[order.argsort().argsort()]


@dataclass
class Shares:
    """Patches of each kind, and how many of them are alive after each stage, summed over windows."""

    total: Counter[str] = field(default_factory=Counter)
    kept: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, depth: Tensor, kinds: dict[str, Tensor], *, num_stages: int) -> None:
        """depth, and each of kinds, (B, *grid)."""
        for name, patches in kinds.items():
            self.total[name] += int(patches.sum())
            for stage in range(1, num_stages + 1):
                self.kept[name, stage] += int((patches & (depth >= stage)).sum())

    def of(self, name: str, stage: int) -> float:
        """Share of the patches of a kind that are alive after a stage; nan where there are none."""
        return self.kept[name, stage] / self.total[name] if self.total[name] else float("nan")


class Ranked:
    """A network whose tokens are ranked in another way, for windows whose last channel is the label.

    dice: mean Dice of each case · shares: what the stages kept · agreements: Spearman's correlation of the scores of
    the first stage with those of the mirrored window, of the network's own ranking where it has scores
    """

    def __init__(self, network: Segmenter, ranking: Ranking, *, outputs: Outputs, seed: int) -> None:
        encoder = network.encoder
        chooser = (encoder.reducer or encoder.gate) if isinstance(encoder, ViTEncoder) else None
        if not isinstance(chooser, Reducer | QueryGate):
            raise UserError(
                "The network chooses no tokens: there is nothing to check. Give a run of a method that does."
            )
        self.network, self.ranking, self.chooser, self.outputs = network, ranking, chooser, outputs
        self.generator = torch.Generator().manual_seed(seed)
        self.shares = Shares()
        self.dice: list[float] = []
        self.agreements: list[float] = []

    @property
    def mean(self) -> float:
        return float(np.nanmean(self.dice))

    def __call__(self, windows: Tensor) -> Tensor:
        """windows (B, C + 1, *S) -> logits (B, Q, *S)."""
        image, label = windows[:, :-1], windows[:, -1].round().long()
        patch = self.network.encoder.spec.patch_size
        # a boundary is worth more than the inside of an organ, and that more than the background
        worth = patch_worth(label, patch_size=patch, kind="foreground")
        worth = worth + patch_worth(label, patch_size=patch, kind="boundary")

        def rescore(scores: Tensor, index: Tensor, image: int) -> Tensor:
            if self.ranking == "inverted":
                return dealt(scores, order=-scores)
            order = torch.rand(scores.shape, generator=self.generator).to(scores.device)
            if self.ranking == "truth":
                # a token without a place (a mean of others) is worth nothing
                order = order + 2 * F.pad(worth[image], (0, 1))[index]
            return dealt(scores, order=order)

        self.chooser.rescore = None if self.ranking == "learned" else rescore
        try:
            prediction = self.network.predict(image)
        finally:
            self.chooser.rescore = None
        labels = torch.stack([self.outputs.labels(logits) for logits in prediction.logits])
        depth = pruning_depth(prediction.encoded)
        kinds = {"all": torch.ones_like(depth, dtype=torch.bool), **patch_kinds(label, labels, patch_size=patch)}
        self.shares.add(depth, kinds, num_stages=prediction.encoded.num_depths)
        if self.ranking == "learned" and prediction.encoded.scores:
            self.agreements += agreements(prediction.encoded, self.network.predict(image.flip(-1)).encoded)
        return prediction.logits


def agreements(encoded: Encoded, mirrored: Encoded) -> list[float]:
    """Spearman's correlation of the first stage's scores of each image with those of its image mirrored on one axis."""
    grid = encoded.grid
    own, other = (one.scores[0].values.reshape(-1, *grid) for one in (encoded, mirrored))
    pairs = zip(own.flatten(1).cpu().numpy(), other.flip(-1).flatten(1).cpu().numpy(), strict=True)
    return [float(spearmanr(first, second).statistic) for first, second in pairs if np.ptp(first) and np.ptp(second)]


@dataclass(frozen=True)
class Selection:
    """The outcome of each ranking."""

    outcomes: dict[Ranking, Ranked]
    num_stages: int

    @property
    def value(self) -> float:
        """Mean Dice with the learned ranking minus mean Dice with a random one."""
        return self.outcomes["learned"].mean - self.outcomes["random"].mean

    @property
    def agreement(self) -> float | None:
        """How alike a window and its mirror image are ranked, mean over windows; None without scores."""
        found = self.outcomes["learned"].agreements
        return float(np.mean(found)) if found else None

    def p_value(self, ranking: Ranking) -> float | None:
        """Two-sided p of Wilcoxon's test against the random ranking; None below 6 cases or without differences."""
        difference = np.subtract(self.outcomes[ranking].dice, self.outcomes["random"].dice)
        difference = difference[~np.isnan(difference)]
        if len(difference) < 6 or not difference.any():
            return None
        return float(wilcoxon(difference).pvalue)

    def summary(self) -> dict[str, Any]:
        """As plain numbers, for a file; None for what no case or patch has."""
        stages = range(1, self.num_stages + 1)
        rankings = {
            ranking: {
                "dice": known(outcome.mean),
                "p_value": self.p_value(ranking),
                "cases": [known(dice) for dice in outcome.dice],
                "kept": {kind: [known(outcome.shares.of(kind, stage)) for stage in stages] for kind in KINDS},
            }
            for ranking, outcome in self.outcomes.items()
        }
        return {"value": known(self.value), "agreement": self.agreement, "rankings": rankings}


def known(number: float) -> float | None:
    return None if math.isnan(number) else number


@torch.no_grad()
def check_selection(
    cases: Iterable[Case],
    *,
    network: Segmenter,
    data: SegmentationData,
    inferer: Inferer,
    device: torch.device,
    seed: int = 0,
) -> Selection:
    """Predicts the cases with each ranking and scores them on the network's grid.

    inferer: calls the network with windows of the image alone, as `SlidingWindow` does. UserError where the network
    drops no tokens.
    """
    models = {ranking: Ranked(network, ranking, outputs=data.outputs, seed=seed) for ranking in RANKINGS}
    for case in cases:
        volume = data.load_case(case)
        assert volume.label is not None
        truth = data.outputs.label_map.cleared(volume.label)
        image = torch.cat([volume.image, truth[None].to(volume.image.dtype)])
        for model in models.values():
            logits = inferer(model, image, Request(data.roi_size, data.outputs.background, device))
            labels = data.outputs.labels(logits).numpy().astype(int)
            model.dice.append(float(np.nanmean(quick_dice(labels, volume.label.numpy(), outputs=data.outputs))))
    return Selection(models, network.encoder.spec.num_depths)
