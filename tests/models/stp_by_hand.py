"""STP with scores that a test chooses."""

import torch
from torch import nn

from sct.models.reducers.stp import STP
from sct.models.tokens import FeatureSpec, Tokens


class Given(nn.Module):
    """A scorer whose scores are known: one for every place of the grid, of which it gives those alive."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.index = None

    def forward(self, x):
        return self.scores if self.index is None else self.scores.gather(1, self.index)


def spec_of(*grid, dim):
    """What an encoder of a one-voxel patch would publish."""
    return FeatureSpec(tuple(grid), 1, (1,) * len(grid), dim, 2)


def given_stp(*scores, **settings):
    """STP with known scores (B, N) a stage."""
    stp = STP(spec=spec_of(scores[0].shape[1], dim=8), blocks=range(1, 1 + len(scores)), **settings)
    stp.scorers = nn.ModuleList(Given(s) for s in scores)
    return stp


def random_tokens(B=2, N=16, C=8, **kind):
    x = torch.randn(B, N, C, requires_grad=True, **kind)
    return Tokens(x, torch.arange(N).expand(B, -1))
