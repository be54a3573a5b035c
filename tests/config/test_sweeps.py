"""Every shipped sweep: each of its jobs composes, passes the checks, and builds its network."""

import pytest
import torch
from commands import assert_one_message, run_command
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sct import train
from sct.config.check import build, check_config, to_dict
from sct.config.command import compose_config
from sct.config.folders import CONFIG_DIR, options
from sct.runs.build import build_segmenter
from sct.runs.folder import best_score

# proposes values as it goes, so that it has no list of jobs
SEARCHES = ("optuna_stp",)
SWEEPS = [name for name in options("sweep") if name not in SEARCHES]


# variants that are no row of a table but a paper's way to train, its size, or blocks for any method -> an experiment,
# and whether it starts from a run
RECIPES = {
    "finetuned": ("hippocampus_stp_mta", True),
    "dtop_large": ("synapse_dtop", False),
    "asvit_published": ("hippocampus_stp_mta", True),
    "dtop_finetune": ("lookalike_dtop", True),
    "apformer_published": ("synapse_apformer", False),
    "mae": ("hippocampus_stp_mta", False),
    **dict.fromkeys(("primus", "primus_v2", "primus_v3"), ("hippocampus_stp_mta", False)),
}


def text_of(name: str) -> str:
    return (CONFIG_DIR / "sweep" / f"{name}.yaml").read_text()


def jobs(name: str, *added: str) -> list[list[str]]:
    """The overrides of every job, as Hydra's own sweeper makes them."""
    params = OmegaConf.create(text_of(name)).hydra.sweeper.params
    overrides = [f"{key}={value}" for key, value in params.items()] + [f"+sweep={name}", *added]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    return batch


@pytest.mark.parametrize("name", SWEEPS)
def test_every_job_composes_and_builds(name):
    seen = []
    for job in jobs(name):
        cfg = compose_config("train", overrides=job)
        assert (cfg.name, cfg.resume) == (name, "once")
        check_config(cfg)
        assert to_dict(cfg) not in seen, f"{job} repeats another job"
        seen.append(to_dict(cfg))
        data = build(cfg.data, key="data")
        # what AS-ViT and DToP keep depends on values
        with torch.device("cpu" if name.startswith(("asvit", "dtop")) else "meta"), torch.no_grad():
            segmenter = build_segmenter(cfg, data=data)
            # without values there is no choice of rows
            segmenter.encoder.gate = None
            logits = segmenter.train()(torch.rand(2, data.num_channels, *data.roi_size)).logits
            assert logits.shape == (2, data.num_classes, *data.roi_size)
    assert f"# Runs:     {len(seen)}" in text_of(name)


FILES = {
    "misspelt": "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      pruning.rato: 0.5,0.9\n",
    "no_package": "name: no_package\nhydra:\n  mode: MULTIRUN\n",
    "without_plugin": "# @package _global_\ndefaults:\n  - override /hydra/sweeper: nowhere\n",
}
FILE_MISTAKES = {
    "misspelt": ["pruning.rato", "hydra.sweeper.params", "Did you mean 'pruning.ratio'?"],
    "no_package": ["sweep/no_package.yaml", "# @package _global_"],
    "without_plugin": ["no hydra/sweeper=nowhere", ".[sweep]"],
}


@pytest.mark.parametrize("name", FILES)
def test_mistake_in_a_sweep_file(name, smoke, tmp_path):
    folder = tmp_path / "own" / "sweep"
    folder.mkdir(parents=True)
    (folder / f"{name}.yaml").write_text(FILES[name])
    command = ["--config-dir", folder.parent, *smoke, f"+sweep={name}", f"paths.outputs={tmp_path}/out"]
    outcome = run_command(train.main, *command)
    assert_one_message(outcome, *FILE_MISTAKES[name])
    assert not runs_below(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+sweep=stp_rato"], ["sweep=stp_rato", "Did you mean 'stp_ratio'?"]),
        (["sweep=stp_ratio"], ["+sweep=NAME", "stp_ratio"]),
        (["+sweep=stp_ratio", "+variant=dens"], ["variant=dens", "Did you mean 'dense'?"]),
        (["variant=dense"], ["+variant=NAME", "stp_mta"]),
    ],
)
def test_mistake_in_the_name_of_a_sweep(arguments, words, smoke, tmp_path):
    assert_one_message(run_command(train.main, *smoke, f"paths.outputs={tmp_path}", *arguments), *words)
    assert not runs_below(tmp_path)


def runs_below(folder):
    return list(folder.rglob("config.yaml"))


def test_the_experiment_of_a_sweep_is_a_default():
    (job, *_) = jobs("stp_ratio", "+experiment=btcv_stp_mta", "seed=1")
    cfg = compose_config("train", overrides=job)
    assert (cfg.data._target_, cfg.encoder.depth, cfg.seed) == ("sct.data.sets.btcv.BTCV", 12, 1)
    assert len(jobs("stp_ratio", "+experiment=btcv_stp_mta", "seed=0,1")) == 10


def test_every_variant_is_in_a_sweep():
    swept = {
        override.split("=")[1] for name in SWEEPS for job in jobs(name) for override in job if "variant" in override
    }
    assert swept == set(options("variant")) - set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_composes_with_its_experiment(name):
    experiment, needs_run = RECIPES[name]
    cfg = compose_config("train", overrides=[f"+experiment={experiment}", f"+variant={name}"])
    check_config(cfg)
    # a name that is no run: the training says that init must be given
    assert (cfg.init is not None) == needs_run


def test_optuna_hears_the_scores_and_proposes_the_same_again(smoke, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra sweep")
    command = [*smoke[1:], "+sweep=optuna_stp", f"paths.outputs={tmp_path}", "hydra.sweeper.n_trials=3"]
    assert run_command(train.main, *command).status == 0
    scores = [best_score(path.parent, metric="val/dice/mean") for path in runs_below(tmp_path)]
    assert len(scores) == 3
    found = OmegaConf.load(tmp_path / "multirun" / "optimization_results.yaml")
    assert found.best_value == max(scores)
    assert set(found.best_params) == {"pruning.ratio", "encoder.reducer.tau", "optimizer.lr"}
    again = run_command(train.main, *command)
    assert again.status == 0, again
    assert again.out.count("done already") == 3
    assert OmegaConf.load(tmp_path / "multirun" / "optimization_results.yaml") == found


def test_slurm_is_asked_for_what_its_config_says(tmp_path, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra sweep")
    monkeypatch.chdir(tmp_path)
    shown = run_command(
        train.main, "+sweep=stp_ratio", "hydra/launcher=slurm", "hydra.launcher.partition=p", "-c", "hydra"
    )
    assert shown.status == 0, shown
    launcher = OmegaConf.create(shown.out).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.partition, launcher.gpus_per_node, launcher.max_num_timeout) == ("p", 1, 10)
