"""Every number of a paper's recipe, read from the config that `+experiment=NAME` composes."""

import pytest
from omegaconf import OmegaConf

from sct.config.command import compose_config

STP = {
    "encoder.dim": 768,
    "encoder.depth": 12,
    "encoder.num_heads": 12,
    "encoder.mlp_ratio": 4.0,
    "encoder.qkv_bias": True,
    "encoder.class_token": True,
    "encoder.patch_size": 8,
    "encoder.norm_eps": 1e-6,
    "encoder.activation": "gelu",
    "encoder.dropout": 0.0,
    "encoder.init_std": 0.02,
    "encoder.reducer.blocks": [3, 6, 9],
    "encoder.reducer.tau": 1.0,
    "encoder.reducer.perturb": True,
    "encoder.reducer.log_sigmoid": True,
    "encoder.reducer.rounding": "nearest",
    "completion._target_": "sct.models.completion.mta.MTA",
    "completion.dim": None,
    "completion.depth": 1,
    "completion.final_block_token": False,
    "decoder.feature_size": 16,
    "optimizer.lr": 1.34e-4,  # 1.72e-2 * 2 / 256
    "optimizer.betas": [0.9, 0.95],
    "optimizer.weight_decay": 0.05,
    "optimizer.layer_decay": 0.75,
    "schedule._target_": "sct.training.optim.warmup_cosine",
    "schedule.min_factor": 0.0,
    "data.batch_size": 2,
    "data.positive_share": 0.5,
    "data.crop_centre": "voxel",
    "data.augment.flip_x.prob": 0.2,
    "data.augment.flip_y.prob": 0.2,
    "data.augment.flip_z.prob": 0.2,
    "data.augment.rot90.prob": 0.2,
    "data.augment.rot90.max_k": 3,
    "data.augment.scale_intensity.prob": 0.1,
    "data.augment.scale_intensity.factors": 0.1,
    "data.augment.shift_intensity.prob": 0.1,
    "data.augment.shift_intensity.offsets": 0.1,
    "loss.pixel.dice_weight": 1.0,
    "loss.pixel.squared": True,
    "loss.pixel.batch": False,
    "loss.pixel.log": False,
    "trainer.clip_norm": None,
    "trainer.accumulate": 1,
    "trainer.ema_decay": None,
}
APFORMER = {
    "encoder.patch_size": 8,
    "encoder.dim": 128,
    "encoder.depth": 4,
    "encoder.num_heads": 6,
    "encoder.mlp_ratio": 4.0,
    "encoder.dropout": 0.1,
    "encoder.class_token": False,
    "encoder.stem.widths": [16, 32, 64, 128],
    "encoder.gate.threshold": 0.9,
    "encoder.attention.head_dim": 128,
    "encoder.attention.dropout": 0.1,
    "encoder.attention.positions.form": "paper",
    "encoder.attention.dependencies.release_at": 0.25,  # after 100 of 400 rounds
    "encoder.attention.dependencies.gradient": "straight_through",
    "encoder.attention.dependencies.renormalize": "weights",
    "encoder.attention.ssa.weight": 0.1,
    "encoder.attention.ssa.symmetry_weight": 0.8,
    "encoder.attention.ssa.entropy_weight": 0.2,
    "encoder.attention.ssa.symmetry_slack": 0.1,
    "encoder.attention.ssa.entropy_slack": 0.9,
    "encoder.attention.ssa.form": "paper",
    "loss.pixel.dice_weight": 0.8,
    "loss.pixel.ce_weight": 0.8,
    "loss.pixel.batch": False,
    "loss.pixel.log": False,
    "loss.gate_weight": 0.1,
    "optimizer.lr": 1e-4,
    "optimizer.weight_decay": 1e-5,
    "optimizer.layer_decay": 1.0,
    "data.roi_size": [256, 256],
    "data.resize_to": [256, 256],
    "data.batch_size": 4,
    "trainer.precision": "fp32",
}
# experiment -> what the paper says; for a file of a group, its experiment is built on the root config
RECIPES = {
    "btcv_stp_mta": {
        **STP,
        "encoder.reducer.ratio": 0.9,
        "encoder.drop_path": 0.1,
        "decoder.layout": "deep",
        "data._target_": "sct.data.sets.btcv.BTCV",
        "data.split": "btcv_18_12",
        "data.roi_size": [96, 96, 96],
        "data.spacing": [1.5, 1.5, 2.0],
        "data.intensity.a_min": -958.0,
        "data.intensity.a_max": 326.0,
        "data.intensity.b_min": -1.0,
        "data.intensity.b_max": 1.0,
        "data.intensity.clip": True,
        "data.crops_per_volume": 4,
        "loss.pixel._target_": "sct.losses.dice_ce.DiceCE",
        "loss.pixel.ce_weight": 1.0,
        "schedule.warmup_steps": 450,  # 50 of 5000 epochs of 18 cases in batches of 2
        "trainer.max_steps": 45000,
    },
    "btcv_dense_unetr": {
        "encoder.reducer": None,
        "encoder.taps": 3,
        "encoder.drop_path": 0.1,
        "decoder.layout": "deep",
    },
    "brats_stp_mta": {
        **STP,
        "encoder.reducer.ratio": 0.75,
        "encoder.drop_path": 0.0,
        "decoder.layout": "shallow",
        "data.roi_size": [128, 128, 128],
        "data.spacing": [1.0, 1.0, 1.0],
        "data.intensity._target_": "sct.data.loading.scaling.Standardise",
        "data.intensity.nonzero": True,
        "data.crops_per_volume": 3,
        "data.regions": {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]},
        "loss.pixel._target_": "sct.losses.dice_bce.DiceBCE",
        "loss.pixel.bce_weight": 1.0,
        "schedule.warmup_steps": 2500,  # 13 of 533 epochs of 387 cases in batches of 2
        "trainer.max_steps": 103000,
    },
    "brats_dense_unetr": {"encoder.reducer": None, "encoder.taps": 2, "decoder.layout": "shallow"},
    "isic_apformer": {**APFORMER, "trainer.max_steps": 181500, "data.split": "isic2018_1815_261_518"},
    "synapse_apformer": {**APFORMER, "trainer.max_steps": 221100, "data.val_patients": ["0006", "0024"]},
    "isic_ap_setr": {
        "encoder.dim": 512,
        "encoder.depth": 12,
        "encoder.num_heads": 8,
        "encoder.patch_size": 8,
        "decoder.hidden": 128,
        "encoder.attention.dependencies.release_at": 0.25,
    },
    "isic_ap_transunet": {"encoder.gate.threshold": 0.7, "encoder.dim": 768, "encoder.stem.units": [3, 4, 9]},
    "synapse_transunet": {
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.patch_size": 16,
        "encoder.dropout": 0.1,
        "data.roi_size": [224, 224],
        "data.batch_size": 24,
        "loss.pixel.dice_weight": 0.5,
        "loss.pixel.ce_weight": 0.5,
        "loss.pixel.batch": True,
        "loss.pixel.log": False,
        "trainer.max_steps": 13950,
    },
    "synapse_dtop": {
        "encoder.dim": 768,
        "encoder.depth": 12,
        "encoder.patch_size": 16,
        "encoder.class_token": False,
        "encoder.reducer.blocks": [6, 8],
        "encoder.reducer.head": "atm",
        "decoder._target_": "sct.models.decoders.atm.ATM",
        "data.roi_size": [512, 512],
    },
}
# encoder -> the paper's numbers in its file
METHODS = {
    "stp": {"tau": 1.0, "perturb": True, "log_sigmoid": True, "rounding": "nearest", "gradient": "published"},
    "dynamicvit": {"tau": 1.0, "perturb": True, "ratio_weight": 2.0},
    "evit": {"inside_block": False, "fuse": False, "schedule": "constant"},
    "asvit": {"thresholds": 0.001, "head_importance": True, "masking": "attention", "budget": 0.65},
    "dtop": {"p0": 0.95, "k": 5, "context": "topk", "share": 0.35, "atm.num_heads": 6, "atm.num_layers": 3},
}


# variant on an experiment -> the paper's way to train
VARIANTS = {
    ("isic_apformer", "apformer_published"): {
        "optimizer._target_": "sct.training.optim.adam",
        "optimizer.lr": 1e-4,
        "optimizer.weight_decay": 1e-5,
        "schedule.warmup_steps": 0,
        "schedule.min_factor": 1.0,
        "loss.pixel.squared": False,
        "loss.pixel.dice_weight": 0.8,
        "data.augment.flip_rows": None,
        "data.augment.flip_columns": None,
        "data.augment.affine.scale_range": [0.2, 0.2],
    },
    ("hippocampus_stp_mta", "asvit_published"): {
        "encoder.reducer.temperature": 1e4,
        "encoder.reducer.batch_rule": "mean",
        "encoder.reducer.thresholds": 0.001,
        "encoder.reducer.budget_weight": 9.2,  # 2 for each G MACs of 4.6
        "optimizer.lr": 2e-5,
        "optimizer.weight_decay": 1e-6,
        "schedule.min_factor": 0.1,  # down to 2e-6
        "loss.teacher": "RUN",
        "loss.distill_weight": 0.5,
    },
    ("hippocampus_stp_mta", "evit_finetuned"): {
        "encoder.reducer.inside_block": True,
        "encoder.reducer.fuse": True,
        "optimizer.lr": 2e-5,
        "optimizer.weight_decay": 1e-6,
        "schedule.min_factor": 0.1,
    },
    ("synapse_dtop", "dtop_large"): {
        "encoder.dim": 1024,
        "encoder.depth": 24,
        "encoder.num_heads": 16,
        "encoder.reducer.blocks": [8, 16],
    },
    ("lookalike_dtop", "dtop_finetune"): {
        "encoder.reducer.mode": "finetune",
        "encoder.reducer.p0": 0.95,
        "encoder.reducer.k": 5,
        "encoder.reducer.context": "topk",
    },
}


def differences(config, expected):
    found = {key: OmegaConf.select(config, key, throw_on_missing=True) for key in expected}
    plain = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in found.items()}
    return {key: (plain[key], expected[key]) for key in expected if plain[key] != expected[key]}


@pytest.mark.parametrize("experiment", RECIPES)
def test_an_experiment_has_the_numbers_of_its_paper(experiment):
    config = compose_config("train", overrides=[f"+experiment={experiment}"])
    assert differences(config, RECIPES[experiment]) == {}


@pytest.mark.parametrize(("experiment", "variant"), VARIANTS)
def test_a_variant_has_the_training_of_its_paper(experiment, variant):
    config = compose_config("train", overrides=[f"+experiment={experiment}", f"+variant={variant}", "init=RUN"])
    assert differences(config, VARIANTS[experiment, variant]) == {}


def test_synapse_is_augmented_as_the_paper_lists_it():
    augment = compose_config("train", overrides=["+experiment=synapse_apformer"]).data.augment
    found = {str(node["_target_"]).rpartition(".")[2] for node in augment.values() if node is not None}
    assert found == {"RandAffined", "RandAdjustContrastd", "RandScaleIntensityFixedMeand"}


@pytest.mark.parametrize("encoder", METHODS)
def test_a_method_has_the_numbers_of_its_paper(encoder):
    config = compose_config("train", overrides=[f"encoder={encoder}"])
    assert differences(config.encoder.reducer, METHODS[encoder]) == {}


def test_the_loss_of_class_queries_has_the_numbers_of_segvit():
    query = compose_config("train", overrides=[]).loss.query
    expected = {
        "class_weight": 1.0,
        "focal_weight": 20.0,
        "dice_weight": 1.0,
        "absent_weight": 0.1,
        "alpha": 0.25,
        "gamma": 2.0,
    }
    assert differences(query, expected) == {}


def test_optimizers_have_the_numbers_of_the_papers():
    adamw = compose_config("train", overrides=[]).optimizer
    expected = {"lr": 1.34e-4, "betas": [0.9, 0.95], "weight_decay": 0.05, "layer_decay": 0.75, "eps": 1e-8}
    assert differences(adamw, {**expected, "reducer_eps": 1e-16}) == {}
    adam = compose_config("train", overrides=["optimizer=adam"]).optimizer
    expected = {"lr": 1e-4, "betas": [0.9, 0.999], "weight_decay": 1e-5, "layer_decay": 1.0, "eps": 1e-8}
    assert differences(adam, expected) == {}


def test_weights_of_the_criterion():
    for loss in ("dice_ce", "dice_bce"):
        criterion = compose_config("train", overrides=[f"loss={loss}"]).loss
        expected = {"early_weight": 1.0, "auxiliary_weight": 1.0, "gate_weight": 0.1, "distill_weight": 0.5}
        assert differences(criterion, expected) == {}
