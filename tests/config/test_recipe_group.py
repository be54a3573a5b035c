"""The recipes of configs/recipe: what they set, and that their transforms run on real crops."""

import pytest
import torch

from sct.config.check import build
from sct.config.command import compose_config

SMALL = (
    "data.num_train=2", "data.num_val=1", "data.num_test=1", "data.shape=[24,24,16]", "data.roi_size=[16,16,16]",
    "data.voxel_size=[5.0,5.0,8.0]", "data.spacing=null",
)  # fmt: skip


def composed(*overrides):
    return compose_config("train", overrides=["+experiment=demo", *overrides])


def test_the_papers_recipe_is_their_loss_and_crops():
    cfg = composed("+recipe=paper")
    assert (cfg.loss.pixel.batch, cfg.loss.pixel.log) == (False, False)
    assert cfg.data.crop_centre == "voxel"


def test_a_recipe_replaces_what_the_experiment_says():
    cfg = compose_config("train", overrides=["+experiment=btcv_stp_mta", "+recipe=modern"])
    assert (cfg.loss.pixel.batch, cfg.loss.pixel.log, cfg.data.crop_centre) == (True, True, "class")
    assert cfg.inferer.mirror_axes == [0, 1, 2]
    assert cfg.data.augment.shift_intensity is None
    assert (cfg.trainer.ema_decay, cfg.trainer.ema_warmup, cfg.trainer.clip_norm) == (0.999, True, 1.0)
    assert cfg.decoder.deep_supervision is True


@pytest.mark.parametrize("base", ["demo", "hippocampus_fast_stp", "brats_small_stp_mta"])
def test_every_transform_of_the_modern_recipe_runs(base, tmp_path):
    """With the probability 1 each, on the crops of phantoms."""
    augment = compose_config("train", overrides=[f"+experiment={base}", "+recipe=modern"]).data.augment
    cfg = composed(*SMALL, f"data.root={tmp_path}/data", "data.num_workers=0", "data.cache=memory")
    cfg.data.augment = {name: {**node, "prob": 1.0} for name, node in augment.items() if node is not None}
    data = build(cfg.data, key="data")
    data.prepare()
    batch = next(iter(data.train_loader(seed=0, start_step=0, num_steps=1)))
    assert batch["image"].shape[2:] == batch["label"].shape[1:] == (16, 16, 16)
    assert batch["image"].isfinite().all()
    check_labels(batch)


def test_every_transform_of_the_modern_recipe_runs_on_pictures(tmp_path):
    cfg = compose_config(
        "train",
        overrides=["+experiment=isic_stp_mta", "+recipe=modern_2d", "+debug=smoke_isic", f"paths.data={tmp_path}"],
    )
    assert cfg.inferer.mirror_axes == [0, 1]
    augment = {name: node for name, node in cfg.data.augment.items() if node is not None}
    cfg.data.augment = {name: {**node, "prob": 1.0} for name, node in augment.items()}
    data = build(cfg.data, key="data")
    data.prepare()
    batch = next(iter(data.train_loader(seed=0, start_step=0, num_steps=1)))
    assert batch["image"].shape[2:] == batch["label"].shape[1:]
    assert batch["image"].isfinite().all()
    check_labels(batch, largest=1)


def check_labels(batch, *, largest=6):
    assert set(batch["label"].unique().tolist()) <= set(range(largest + 1))
    assert batch["label"].dtype == torch.get_default_dtype() or not batch["label"].is_floating_point()
