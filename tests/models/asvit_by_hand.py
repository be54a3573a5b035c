"""AS-ViT with scores that a test chooses, and images of which it keeps different numbers of tokens."""

import torch
from little_models import little_batch

from sct.models.blocks.layers import AttentionStats
from sct.models.reducers.asvit import ASViT
from sct.models.tokens import FeatureSpec, Tokens


def reducer(*grid, blocks=(1, 2), depth=6, **settings):
    """AS-ViT for patches of one pixel and width 8."""
    spec = FeatureSpec(tuple(grid), 1, (1,) * len(grid), 8, 2, depth=depth, num_prefix=1)
    return ASViT(spec=spec, blocks=blocks, **settings)


def stats_of(scores):
    """Statistics (B, n, 2) that give tokens these scores (B, n)."""
    return AttentionStats(scores.unsqueeze(-1).expand(-1, -1, 2), torch.ones(*scores.shape, 2))


def tokens_of(scores):
    return Tokens(torch.randn(*scores.shape, 8), torch.arange(scores.shape[1]).expand(len(scores), -1))


def uneven(encoder):
    """Gives an untrained encoder the uneven attention of a trained one."""
    for block in encoder.blocks:
        block.attn.qkv.weight.data *= 6


def four_images(which, network):
    """Four images of different contrast, and thresholds that keep about half of their tokens at every stage."""
    uneven(network.encoder)
    contrast = torch.tensor([0.1, 0.5, 1.0, 4.0]).reshape(4, *[1] * (which.dims + 1))
    image = torch.cat([little_batch(which, seed=seed)[0] for seed in (1, 2)]) * contrast
    method = network.encoder.reducer
    for stage in range(2):
        scores = network.encoder(image).aux[f"score_{stage + 1}"]
        # between two scores, not on one
        middle = scores.flatten().sort().values[scores.numel() // 2 - 1 :][:2].mean() * network.encoder.spec.num_tokens
        method.thresholds.data[stage] = middle / method.threshold_rate
    return image
