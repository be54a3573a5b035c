"""State dicts as they are published, made from an encoder of ours: exact to take back."""

import torch
from torch import Tensor

from sct.models.encoder import ViTEncoder

PUBLISHED = {
    "class_token": "cls_token",
    "position": "pos_embed",
    "patch_embed.weight": "patch_embed.proj.weight",
    "patch_embed.bias": "patch_embed.proj.bias",
}


def little_vit(*, seed: int = 0, **settings) -> ViTEncoder:
    """A 2-D encoder in evaluation mode, with noise on what starts at zero or one."""
    torch.manual_seed(seed)
    defaults = {"image_size": (16, 16), "in_channels": 3, "patch_size": 4, "dim": 24, "depth": 3, "num_heads": 2}
    encoder = ViTEncoder(**{**defaults, **settings})
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return encoder.eval()


def published(encoder: ViTEncoder) -> dict[str, Tensor]:
    """An ImageNet ViT: timm's names, and the head of a classifier."""
    weights = {PUBLISHED.get(name, name): value.clone() for name, value in encoder.state_dict().items()}
    dim = encoder.spec.dim
    return {**weights, "head.weight": torch.randn(10, dim), "head.bias": torch.zeros(10)}


def distilled(encoder: ViTEncoder) -> dict[str, Tensor]:
    """A distilled DeiT: a second token, with a position behind the class token's, and a second head."""
    weights, dim = published(encoder), encoder.spec.dim
    table = weights["pos_embed"]
    weights["pos_embed"] = torch.cat([table[:, :1], torch.full((1, 1, dim), 9.0), table[:, 1:]], dim=1)
    return {**weights, "dist_token": torch.ones(1, 1, dim), "head_dist.weight": torch.ones(10, dim)}


def autoencoder(encoder: ViTEncoder) -> dict[str, Tensor]:
    """A whole MAE: a decoder, and no head."""
    weights = {name: value for name, value in published(encoder).items() if not name.startswith("head.")}
    decoder = {f"decoder_{name}": value.clone() for name, value in weights.items()}
    return {**weights, **decoder, "mask_token": torch.ones(1, 1, 8)}


def layer_scaled(encoder: ViTEncoder) -> dict[str, Tensor]:
    """The encoder's function with layer scales, half under timm's names and half under DeiT III's."""
    weights = published(encoder)
    for number in range(encoder.depth):
        block = f"blocks.{number}"
        for layer, names in (("attn.proj", ("ls1.gamma", "gamma_1")), ("mlp.fc2", ("ls2.gamma", "gamma_2"))):
            scale = torch.rand(encoder.spec.dim) + 0.5
            weights[f"{block}.{layer}.weight"] /= scale.unsqueeze(1)
            weights[f"{block}.{layer}.bias"] /= scale
            weights[f"{block}.{names[number % 2]}"] = scale
    return weights
