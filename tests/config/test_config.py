"""The checks of a config, the shipped experiments, and what may be instantiated."""

import pytest
import torch
from commands import run_command
from omegaconf import OmegaConf

from sct import train
from sct.config.check import build, check_config, check_section, nearest
from sct.config.command import compose_config
from sct.config.folders import CONFIG_DIR, options
from sct.config.hints import fits, in_words
from sct.config.schema import TrainerConfig
from sct.errors import UserError
from sct.runs.build import build_segmenter
from sct.runs.folder import FINISHED

EXPERIMENTS = options("experiment")
# the settings of configs/debug that shrink a data set and its network, by the data set
SMOKE = {"sct.data.sets.isic.ISIC": "smoke_isic", "sct.data.sets.synapse.Synapse": "smoke_synapse"}
# and what it leaves wide
WIDTHS = {"encoder.stem.width": 8, "decoder.feature_size": 4}
# which tokens exit depends on values: built with them
WITH_VALUES = ("lookalike_dtop", "synapse_dtop")


def size_of(cfg) -> list[str]:
    """What makes an experiment tiny, and changes nothing else of it: phantoms in place of its data, crops, widths."""
    name = "smoke_brats" if cfg.data.get("regions") else SMOKE.get(cfg.data._target_, "smoke")
    debug = OmegaConf.load(CONFIG_DIR / "debug" / f"{name}.yaml")
    sizes = {"data": OmegaConf.to_container(debug)["data"], "encoder": dict(debug.encoder)}
    flat = {f"{section}.{key}": value for section, part in sizes.items() for key, value in part.items()}
    flat |= {key: width for key, width in WIDTHS.items() if OmegaConf.select(cfg, key) is not None}
    phantoms = debug.defaults[0]["override /data"]
    return [f"data={phantoms}", *(f"{key}={'null' if value is None else value}" for key, value in flat.items())]


def composed(*overrides: str):
    return compose_config("train", overrides=list(overrides))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_shipped_experiment_is_valid_and_its_network_builds(name):
    cfg = composed(f"+experiment={name}")
    check_section(cfg)
    check_config(cfg)
    data = build(cfg.data, key="data")
    with torch.device("cpu" if name in WITH_VALUES else "meta"):
        segmenter = build_segmenter(cfg, data=data)
        # without values there is no choice of rows
        segmenter.encoder.gate = None
        prediction = segmenter(torch.rand(1, data.num_channels, *data.roi_size))
    assert prediction.logits.shape == (1, data.num_outputs, *data.roi_size)
    assert cfg.name == name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_shipped_experiment_trains_for_four_steps(name, smoke, tmp_path):
    size = size_of(composed(f"+experiment={name}"))
    places = [argument for argument in smoke if argument.startswith("paths.")]
    settings = ["trainer.max_steps=4", "trainer.tensorboard=false", f"run_dir={tmp_path}/run"]
    outcome = run_command(train.main, f"+experiment={name}", *size, *places, *settings)
    assert outcome.status == 0, outcome
    assert (tmp_path / "run" / FINISHED).read_text() == "4\n"


def test_every_group_option_is_valid():
    groups = ("encoder", "completion", "decoder", "model", "loss", "optimizer", "schedule", "inferer")
    for group in groups:
        for name in options(group):
            check_config(composed(f"{group}={name}"))


@pytest.mark.parametrize("name", ["btcv_stp_mta", "demo"])
def test_shared_pruning_settings_reach_the_reducer(name):
    cfg = composed(f"+experiment={name}", "pruning.ratio=0.25", "pruning.blocks=[1,3]")
    assert cfg.encoder.reducer.ratio == 0.25
    assert list(cfg.encoder.reducer.blocks) == [1, 3]


def refused(target: str) -> str:
    node = OmegaConf.create({"_target_": target, "command": "true"})
    with pytest.raises(UserError) as caught:
        build(node, key="loss")
    return str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        # modules that the allowed packages have imported are reached through them
        "torch.os.system",
        "monai.utils.module.sys.exit",
        "sct.runtime.files.os.system",
        # functions of the allowed packages themselves
        "torch.hub.load",
        "torch.load",
        "torch.utils.collect_env.run",
    ],
)
def test_targets_that_could_run_anything_are_refused(target):
    assert f"loss._target_={target} is not allowed" in refused(target)


def test_a_target_that_does_not_exist_is_named():
    assert "loss._target_=sct.losses.dice_ce.DiceCEE can't be imported" in refused("sct.losses.dice_ce.DiceCEE")


def test_a_group_without_target_names_the_options():
    with pytest.raises(UserError, match=r"encoder has no _target_.*encoder=NAME.*dense.*stp"):
        build(OmegaConf.create({"dim": 3}), key="encoder")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("encoder.dim=abc", "encoder.dim=abc must be a whole number"),
        ("encoder.dim=1.5", "encoder.dim=1.5 must be a whole number"),
        ("encoder.qkv_bias=3", "encoder.qkv_bias=3 must be true or false"),
        ("encoder.taps=[1,x]", "encoder.taps=[1, 'x'] must be a whole number or a list, each item a whole number"),
        ("encoder.reducer.rounding=up", "encoder.reducer.rounding=up must be one of nearest, floor"),
        ("optimizer.lr=fast", "optimizer.lr=fast must be a number"),
        ("data.roi_size=48", "data.roi_size=48 must be a list, each item a whole number"),
        ("data.root=null", "data.root=None must be text"),
        ("+data.augment.flip={_target_:monai.transforms.RandFlipd,keyss:[image]}", "data.augment.flip.keyss"),
        ("+data.augment.flip={_target_:os.system}", "data.augment.flip._target_=os.system is not allowed"),
        ("encoder.dim=${encoder.dimm}", "encoder.dim: Interpolation key 'encoder.dimm' not found"),
        ("decoder.layout=???", "decoder.layout is not set"),
    ],
)
def test_bad_values_in_groups_name_key_and_remedy(override, words):
    with pytest.raises(UserError) as caught:
        check_config(composed(override))
    assert words in str(caught.value)


def test_what_a_library_refuses_becomes_a_message():
    cfg = composed("+data.augment.noise={_target_:monai.transforms.RandGaussianNoised}")
    with pytest.raises(UserError, match=r"data .*refuses its settings.*keys"):
        build(cfg.data, key="data")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("max_steps", 0), ("accumulate", 0), ("log_every", 0), ("clip_norm", 0.0), ("ema_decay", 1.0), ("precision", "x")],
)
def test_trainer_settings_out_of_range_are_named(setting, value):
    with pytest.raises(UserError, match=rf"trainer\.{setting}={value} "):
        TrainerConfig(**{setting: value})


@pytest.mark.parametrize(
    ("hint", "good", "bad", "words"),
    [
        (int, 3, True, "a whole number"),
        (float, 3, "3", "a number"),
        (bool, False, 0, "true or false"),
        (int | None, None, 1.0, "a whole number or null"),
        (list[float], OmegaConf.create([1, 2.5]), OmegaConf.create([1, "a"]), "a list, each item a number"),
        (dict[str, int], OmegaConf.create({"a": 1}), 3, "a mapping"),
    ],
)
def test_hints(hint, good, bad, words):
    assert fits(good, hint)
    assert not fits(bad, hint)
    assert in_words(hint) == words


def test_nearest_suggests_or_lists():
    assert nearest("rato", ["ratio", "tau"]) == "Did you mean 'ratio'?"
    assert nearest("zzz", ["ratio", "tau"]) == "Known: ratio, tau."


def test_a_forgotten_partial_is_hinted_at():
    cfg = compose_config("train", overrides=["encoder=stp", "encoder.reducer._partial_=false"])
    with pytest.raises(UserError, match=r"missing 1 required keyword-only argument: 'spec'.* needs _partial_: true"):
        build(cfg.encoder, key="encoder", image_size=[16, 16], in_channels=1)
