"""Every shipped experiment composes and builds its network; shrunk to phantoms, it runs."""

import pytest
import torch
from commands import run_command

from sct import train
from sct.cli import compose_config
from sct.config import build, check_config, options
from sct.factory import build_segmenter

# by the dimensions of the experiment's windows, and whether its outputs are overlapping regions
SMOKE = {(2, False): "smoke_isic", (3, False): "smoke", (3, True): "smoke_brats"}


@pytest.mark.parametrize("name", options("experiment"))
def test_it_builds_in_the_size_it_has(name):
    cfg = compose_config("train", overrides=[f"+experiment={name}"])
    assert cfg.name == name, "runs are found by the name of their experiment"
    check_config(cfg)
    data = build(cfg.data, key="data")
    with torch.device("meta"):
        segmenter = build_segmenter(cfg, data=data)
        # without values there is no choice of rows
        segmenter.encoder.gate = None
        logits = segmenter.train()(torch.empty(2, data.num_channels, *data.roi_size)).logits
    assert logits.shape == (2, data.outputs.num_channels, *data.roi_size)


@pytest.mark.long
@pytest.mark.parametrize("name", options("experiment"))
def test_it_runs_shrunk(name, tmp_path):
    data = compose_config("train", overrides=[f"+experiment={name}"]).data
    debug = f"+debug={SMOKE[len(data.roi_size), bool(data.get('regions'))]}"
    settings = (f"paths.data={tmp_path}/data", f"run_dir={tmp_path}/run", "trainer.tensorboard=false")
    outcome = run_command(train.main, f"+experiment={name}", debug, *settings)
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "run" / "finished").exists()
