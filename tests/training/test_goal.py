"""What a validation of a pretraining says, with networks whose predictions are known."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sct.config.check import build
from sct.config.command import compose_config
from sct.inference import SlidingWindow
from sct.losses.masked import Masked, normalised, per_channel
from sct.models.grid import to_grid
from sct.runs.build import build_criterion, build_segmenter
from sct.runtime.distributed import Processes
from sct.training.goal import Reconstruction, goal_of

SMALL = ("+experiment=demo_mae", "+debug=smoke", "data.num_val=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("goal")
    cfg = compose_config("train", overrides=[*SMALL, f"paths.data={place}", f"paths.cache={place}"])
    data = build(cfg.data, key="data")
    data.prepare()
    torch.manual_seed(0)
    network = build_segmenter(cfg, data=data)
    return data, network, goal_of(data, network=network, criterion=build_criterion(cfg, data=data))


class Known(nn.Module):
    """Hides what `network` hides, and predicts `factor` times what is right."""

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def predict(self, image):
        prediction = self.network.predict(image)
        targets = normalised(per_channel(image, grid=prediction.encoded.grid))
        size = [length // places for length, places in zip(image.shape[2:], prediction.encoded.grid, strict=True)]
        grid = to_grid(targets.flatten(2), prediction.encoded.grid)
        x = grid.unflatten(1, size).permute(0, 4, 1, 5, 2, 6, 3).reshape(image.shape)
        return replace(prediction, logits=self.factor * x)


@pytest.mark.parametrize(("factor", "explained"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.75), (-1.0, -3.0)])
def test_what_is_explained_by_known_predictions(made, factor, explained):
    _, network, goal = made
    row = goal.validate(
        Known(network, factor),
        inferer=SlidingWindow(),
        processes=Processes(rank=0, world_size=1, device=torch.device("cpu")),
        dtype=torch.float32,
        ending=None,
    )
    assert row["val/explained"] == pytest.approx(explained, abs=1e-5)
    if explained == 0:
        assert 0.5 < row["val/masked_error"] <= 1, "1, but for air and n - 1"
    assert row["val/masked_error"] == pytest.approx(
        (1 - factor) ** 2 * row_of_zeros(made)["val/masked_error"], abs=1e-5
    )


def row_of_zeros(made):
    _, network, goal = made
    processes = Processes(rank=0, world_size=1, device=torch.device("cpu"))
    return goal.validate(
        Known(network, 0.0), inferer=SlidingWindow(), processes=processes, dtype=torch.float32, ending=None
    )


def test_images_without_labels_have_a_goal_of_their_own(made):
    data, network, goal = made
    assert isinstance(goal, Reconstruction)
    assert isinstance(goal.loss, Masked)
    assert data.num_outputs == network.num_classes == 1
    assert all(case.label is None for split in ("train", "val", "test") for case in data.cases(split))
    assert data.load_case(data.cases("val")[0]).label is None
    batch = next(iter(data.train_loader(seed=0, start_step=0, num_steps=1)))
    assert batch["image"].std() > 0
    assert not batch["label"].any()
    assert batch["label"].shape == batch["image"].shape[:1] + batch["image"].shape[2:]
