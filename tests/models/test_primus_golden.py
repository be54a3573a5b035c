"""Primus with the weights of the authors' package gives the package's outputs (scripts/make_primus_golden.py)."""

import json
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sct.config.check import build
from sct.config.command import compose_config
from sct.models.segmenter import Segmenter

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "primus_golden.json").read_text())
SCRIPT = runpy.run_path(str(HERE.parents[1] / "scripts/make_primus_golden.py"))
DIM, WIDTHS = SCRIPT["DIM"], SCRIPT["WIDTHS"]
TOLERANCE = 1e-5


def given(name: str, *shape: int) -> Tensor:
    """The weight of a name in the package."""
    return torch.from_numpy(SCRIPT["filled"](name, shape))


def affine(ours: str, theirs: str, *shape: int) -> dict[str, Tensor]:
    """Weight and bias of a layer, under our name, from the layer of their name."""
    return {f"{ours}.weight": given(f"{theirs}.weight", *shape), f"{ours}.bias": given(f"{theirs}.bias", shape[0])}


def block(number: int) -> dict[str, Tensor]:
    """One linear layer gives queries, keys and values here; the package has no bias of keys."""
    ours, theirs, hidden = f"encoder.blocks.{number}", f"eva.blocks.{number}", int(DIM * 8 / 3)
    attention = f"{theirs}.attn"
    weights = [given(f"{attention}.{name}_proj.weight", DIM, DIM) for name in "qkv"]
    biases = [given(f"{attention}.q_proj.bias", DIM), torch.zeros(DIM), given(f"{attention}.v_proj.bias", DIM)]
    return {
        f"{ours}.attn.qkv.weight": torch.cat(weights),
        f"{ours}.attn.qkv.bias": torch.cat(biases),
        f"{ours}.scale1.scale": given(f"{theirs}.gamma_1", DIM),
        f"{ours}.scale2.scale": given(f"{theirs}.gamma_2", DIM),
        **affine(f"{ours}.norm1", f"{theirs}.norm1", DIM),
        **affine(f"{ours}.norm2", f"{theirs}.norm2", DIM),
        **affine(f"{ours}.attn.norm", f"{attention}.norm", DIM),
        **affine(f"{ours}.attn.proj", f"{attention}.proj", DIM, DIM),
        **affine(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1_g", hidden, DIM),
        **affine(f"{ours}.mlp.gated", f"{theirs}.mlp.fc1_x", hidden, DIM),
        **affine(f"{ours}.mlp.norm", f"{theirs}.mlp.norm", hidden),
        **affine(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2", DIM, hidden),
    }


def residual_block(number: int, above: int, width: int) -> dict[str, Tensor]:
    theirs = "down_projection." + ("stem.blocks.0" if number == 0 else f"stages.{number - 1}.blocks.0")
    ours, weights = f"encoder.stem.blocks.{number}", {}
    # the strided blocks average their input first
    place = 1 if number else 0
    parts = [("enter", "conv1", above, (3,) * 3), ("leave", "conv2", width, (3,) * 3)]
    if above != width:
        parts.append((f"shortcut.{place}", f"skip.{place}", above, (1,) * 3))
    for mine, layer, channels, kernel in parts:
        first, second = (f"{mine}.0", f"{mine}.1") if "shortcut" not in mine else (mine, f"shortcut.{place + 1}")
        weights[f"{ours}.{first}.weight"] = given(f"{theirs}.{layer}.conv.weight", width, channels, *kernel)
        weights |= affine(f"{ours}.{second}", f"{theirs}.{layer}.norm", width)
    return weights


def tokenizer(version: str) -> dict[str, Tensor]:
    if version == "v1":
        patch = (SCRIPT["PATCH"],) * 3
        return affine("encoder.patch_embed", "down_projection.proj", DIM, SCRIPT["CHANNELS"], *patch)
    channels = [SCRIPT["CHANNELS"], *WIDTHS[version]]
    weights = affine("encoder.patch_embed", "down_projection.final_proj", DIM, channels[-1], 1, 1, 1)
    for number, (above, width) in enumerate(pairwise(channels)):
        weights |= residual_block(number, above, width)
    if version == "v3":
        for number, width in enumerate(WIDTHS[version][:-1]):
            ours, theirs = f"encoder.pyramid_embed.projections.{number}", f"down_projection.proj_to_tokens.{number}"
            weights |= affine(ours, theirs, DIM, width, *(8 // 2**number,) * 3)
        scales = [given(f"down_projection.scale_proj_to_tokens.{number}") for number in range(3)]
        weights["encoder.pyramid_embed.scales"] = torch.stack(scales)
    return weights


def decoder(channels: list[int]) -> dict[str, Tensor]:
    """A transposed convolution there is a linear layer here: its rows are places of the kernel, then channels."""
    weights, classes = {}, SCRIPT["CLASSES"]
    for number, (above, out) in enumerate(pairwise(channels)):
        theirs = f"up_projection.decode.{number}"
        kernel = given(f"{theirs}.0.weight", above, out, 2, 2, 2)
        weights[f"decoder.rungs.{number}.expand.weight"] = kernel.permute(2, 3, 4, 1, 0).reshape(8 * out, above)
        weights[f"decoder.rungs.{number}.expand.bias"] = given(f"{theirs}.0.bias", out).repeat(8)
        weights |= affine(f"decoder.rungs.{number}.norm", f"{theirs}.1", out)
    last = f"up_projection.decode.{len(channels) - 1}"
    weights["decoder.head.weight"] = given(f"{last}.weight", channels[-1], classes, 2, 2, 2)
    weights["decoder.head.bias"] = given(f"{last}.bias", classes)
    return weights


def network(version: str) -> Segmenter:
    """The network of the shipped configs, of little size, with the package's weights."""
    name = "primus" if version == "v1" else f"primus_{version}"
    overrides = [f"encoder={name}", "completion=scatter", "decoder=primus"]
    cfg = compose_config("train", overrides=overrides)
    cfg.encoder.dim, cfg.encoder.depth, cfg.encoder.num_heads = DIM, SCRIPT["DEPTH"], SCRIPT["HEADS"]
    if version != "v1":
        cfg.encoder.stem.widths = list(WIDTHS[version])
    sizes = {"image_size": SCRIPT["SIZE"], "in_channels": SCRIPT["CHANNELS"], "num_classes": SCRIPT["CLASSES"]}
    segmenter = Segmenter(
        encoder=build(cfg.encoder, key="encoder", **sizes),
        completion=build(cfg.completion, key="completion"),
        decoder=build(cfg.decoder, key="decoder"),
        num_classes=SCRIPT["CLASSES"],
    )
    spec = segmenter.encoder.spec
    weights = {
        "encoder.position": given("eva.pos_embed", 1, spec.num_tokens, DIM),
        **affine("encoder.norm", "eva.norm", DIM),
        **tokenizer(version),
        **decoder([DIM, *(rung.norm.normalized_shape[0] for rung in segmenter.decoder.rungs)]),
    }
    for number in range(spec.depth):
        weights |= block(number)
    segmenter.double().load_state_dict(weights)
    return segmenter.eval()


@pytest.mark.parametrize("version", GOLDEN)
@torch.no_grad()
def test_outputs_are_those_of_the_package(version):
    segmenter, image = network(version), torch.from_numpy(SCRIPT["image_of"]())
    tokens = segmenter.encoder(image).final.x[0, :, :: SCRIPT["TOKEN_STEP"]].flatten()
    expected = {name: torch.tensor(values, dtype=torch.float64) for name, values in GOLDEN[version].items()}
    torch.testing.assert_close(tokens, expected["tokens"], rtol=0, atol=TOLERANCE)
    few = (slice(None, None, SCRIPT["VOXEL_STEP"]),) * 3
    torch.testing.assert_close(segmenter(image)[0][:, *few].flatten(), expected["logits"], rtol=0, atol=TOLERANCE)
    assert expected["logits"].std() > 0.05, "a network whose outputs differ"
