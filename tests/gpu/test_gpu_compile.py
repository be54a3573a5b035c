"""torch.compile on a GPU: what is compiled says what the network says, in prediction and in training."""

import pytest
import torch
from little_models import Combination, little_batch, little_network

from sct.config.check import build, to_dict
from sct.config.command import compose_config
from sct.runtime import distributed
from sct.tasks.train import build_trainer

pytestmark = pytest.mark.gpu
WHICH = [Combination("stp", "mta", "thin", 3), Combination("dense", "scatter", "unetr", 3)]


@pytest.mark.parametrize("which", WHICH, ids=str)
@torch.no_grad()
def test_prediction(which, gpu):
    torch.compiler.reset()
    network, image = little_network(which).to(gpu), little_batch(which)[0].to(gpu)
    expected = network(image)
    torch.testing.assert_close(torch.compile(network)(image), expected, rtol=1e-3, atol=1e-3)


def losses(smoke, gpu, *, compiled):
    """Of three steps of the trainer on noise; a window of four patches along each axis."""
    torch.compiler.reset()
    settings = [f"trainer.device={gpu}", f"trainer.compile={compiled}", "encoder.patch_size=4"]
    cfg = compose_config("train", overrides=[*smoke, *settings])
    data = build(cfg.data, key="data")
    data.prepare()
    trainer = build_trainer(cfg, data=data, processes=distributed.join(str(gpu)), config=to_dict(cfg))
    rows = []
    for batch in data.train_loader(seed=0, start_step=0, num_steps=3):
        rows.append(trainer.train_step([batch])["train/loss"])
        trainer.step += 1
    return rows


def test_training(smoke, gpu):
    assert losses(smoke, gpu, compiled=True) == pytest.approx(losses(smoke, gpu, compiled=False), rel=1e-3)
