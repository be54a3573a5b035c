"""Every shipped sweep: each of its jobs composes, passes the checks, and builds its network."""

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sct.cli import compose_config
from sct.config import CONFIG_DIR, build, check_config, options, to_dict
from sct.factory import build_segmenter

# proposes values as it goes, so that it has no list of jobs
SEARCHES = ("optuna_stp",)
SWEEPS = [name for name in options("sweep") if name not in SEARCHES]


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
