"""The example of docs/how-to/add-a-method.md is executed, so that the page stays true."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from little_models import CHANNELS, CLASSES, Combination, composed, little_batch, little_config, little_criterion
from omegaconf import OmegaConf

from sct.config.check import build
from sct.models.grid import pruning_depth
from sct.models.reducers.base import Reducer, Reduction
from sct.models.segmenter import Segmenter
from sct.models.tokens import Tokens

PAGE = Path(__file__).parents[2] / "docs/how-to/add-a-method.md"
MODULE = "sct.models.reducers.unusual"
WHICH = Combination("dense", "mta", "fcn", 2)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture
def config(monkeypatch):
    """The config of a network with the page's reducer, at the place that the page gives it in this repository."""
    settings = OmegaConf.create(blocks("yaml")[0])
    pruning = composed("encoder", "dense").pruning
    node = OmegaConf.to_container(OmegaConf.create({"pruning": pruning, **settings}), resolve=True)["reducer"]
    module = types.ModuleType(MODULE)
    exec(compile(blocks("python")[0], str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, MODULE, module)
    assert node["_target_"] == "mypkg.reducers.Unusual"
    cfg = little_config(WHICH).copy()
    cfg.encoder.reducer = {**node, "_target_": f"{MODULE}.Unusual"}
    return cfg


def encoder_of(cfg):
    sizes = {"image_size": WHICH.image_size, "in_channels": CHANNELS, "num_classes": CLASSES}
    return build(cfg.encoder, key="encoder", **sizes)


def test_the_example_trains_and_prunes(config):
    network = Segmenter(
        encoder=encoder_of(config),
        completion=build(config.completion, key="completion"),
        decoder=build(config.decoder, key="decoder"),
        num_classes=CLASSES,
    )
    image, label = little_batch(WHICH)
    prediction = network(image)
    assert [tokens.x.shape[1] for tokens in prediction.encoded.sets] == [8, 4, 4]
    little_criterion(config)(prediction, label, image=image)["loss"].backward()
    assert network.encoder.blocks[0].attn.qkv.weight.grad.any()


@torch.no_grad()
def test_the_example_keeps_what_its_docstring_says(config):
    image, _ = little_batch(WHICH)
    encoded = encoder_of(config).eval()(image)
    kept = pruning_depth(encoded).flatten(1) >= 1
    for scores, alive in zip(encoded.aux["score_1"], kept, strict=True):
        assert scores[alive].min() >= scores[~alive].max()


def test_the_names_of_the_page_exist():
    """Attributes and files that the page speaks of."""
    fields = {"live", "dropped", "auxiliary", "parent", "losses", "aux"}
    assert fields <= set(Reduction.__dataclass_fields__)
    assert "key_bias" in Tokens.__dataclass_fields__
    for name in ("inside_block", "wants", "merges", "reenter_before", "by_image", "finish", "progress"):
        assert name in PAGE.read_text()
        assert hasattr(Reducer, name)
    for path in re.findall(r"`((?:tests|scripts|sct|configs)/[\w/.]+)`", PAGE.read_text()):
        assert (PAGE.parents[2] / path).exists(), path
