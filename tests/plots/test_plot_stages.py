"""Predictions of every stage of DToP: by loops over the places, as the network predicts them, and as they are drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import own_settings, run_command
from little_models import Combination, little_batch, little_network
from torch import Tensor

from sct import train
from sct.data.outputs import numbered
from sct.errors import UserError
from sct.models.segmenter import Segmenter
from sct.plots.__main__ import main
from sct.plots.commands import stages as command
from sct.plots.planes import faded, view
from sct.plots.stages import StageRow, draw_stages, stage_logits, stages_of

EXITS = ("encoder.reducer.p0=0.4", "encoder.reducer.k=1")


def network_and_image(head: str) -> tuple[Segmenter, Tensor]:
    """A little DToP of which some tokens exit at both stages, and one image of it."""
    which = Combination("dtop", "scatter", head, 2)
    network = little_network(which, f"encoder.reducer.head={head}", *EXITS).eval()
    return network, little_batch(which)[0][:1]


@pytest.mark.parametrize("head", ["fcn", "atm"])
@torch.no_grad()
def test_a_place_keeps_the_prediction_of_the_stage_that_it_exited_at(head: str) -> None:
    network, image = network_and_image(head)
    if head == "atm":
        network.encoder.reducer.p0 = 0.2
    encoded = network.encoder(image)
    grid = encoded.grid
    found = stage_logits(encoded, size=grid)
    exited_first = set(encoded.dropped[0].index[0].tolist())
    assert 0 < len(exited_first) < 16
    assert len(found) == 2
    for stage, logits in enumerate(found):
        output = encoded.early_outputs[stage]
        for place in range(16):
            # the head that saw the place last
            seen_by = encoded.early_outputs[0 if place in exited_first else stage]
            row = seen_by.tokens.index[0].tolist().index(place)
            expected = seen_by.masks[0, row]
            if head == "atm":
                # all places with the class scores of this stage
                expected = expected.sigmoid().log() + output.classes[0].softmax(dim=-1)[:, 0].log()
            torch.testing.assert_close(logits[0].flatten(1)[:, place], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["fcn", "atm"])
def test_the_last_prediction_is_the_networks_and_exits_add_up(head: str) -> None:
    network, image = network_and_image(head)
    exited, predictions = stages_of(network, image, outputs=numbered(3))
    with torch.no_grad():
        expected = network(image)[0].argmax(dim=0).numpy()
        dropped = [tokens.index[0].tolist() for tokens in network.encoder(image).dropped]
    assert len(exited) == 2
    assert len(predictions) == 3
    np.testing.assert_array_equal(predictions[-1], expected)
    assert np.flatnonzero(exited[0]).tolist() == sorted(dropped[0])
    assert np.flatnonzero(exited[1]).tolist() == sorted(dropped[0] + dropped[1])


def test_a_network_without_exits_is_refused() -> None:
    network = little_network(Combination("stp", "mta", "unetr", 2)).eval()
    image = little_batch(Combination("stp", "mta", "unetr", 2))[0][:1]
    with pytest.raises(UserError, match="no token exits early"):
        stages_of(network, image, outputs=numbered(3))


def test_what_is_drawn() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((4, 6), int)
    truth[1:3, 1:4] = 2
    where = view(rng.random((3, 4, 6)), truth, spacing=(1, 1))
    exited = [
        np.array([[True, False, False], [False, False, False]]),
        np.array([[True, True, False], [True, False, False]]),
    ]
    predictions = [np.zeros((4, 6), int), truth.copy(), np.ones((4, 6), int)]
    row = StageRow("case", where, truth, exited, predictions)
    figure = draw_stages([row, row], classes=("background", "one", "two"), title="run", about="small print")
    panels = figure.axes
    assert len(panels) == 2 * 2 * 4
    above, below = panels[:4], panels[4:8]
    np.testing.assert_array_equal(above[1].images[-1].get_array(), faded(where.picture, exited[0]))
    np.testing.assert_array_equal(above[2].images[-1].get_array(), faded(where.picture, exited[1]))
    assert [axes.get_xlabel() for axes in above[1:]] == ["16.7% exited", "50.0% exited", "50.0% exited"]
    alphas = [np.asarray(axes.images[-1].get_array())[..., 3] > 0 for axes in below]
    for alpha, labels in zip(alphas, (truth, *predictions), strict=True):
        np.testing.assert_array_equal(alpha, labels > 0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two", "outline of the truth"]


@pytest.fixture(scope="module")
def run(smoke: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "run"
    parts = ["encoder=dtop", "completion=scatter", "decoder=fcn", "encoder.reducer.head=fcn", "encoder.reducer.k=1"]
    outcome = run_command(train.main, *smoke, *parts, f"run_dir={folder}")
    assert outcome.status == 0, outcome
    return folder


def test_the_command_draws_each_case_with_each_threshold(run: Path, tmp_path: Path) -> None:
    arguments = [str(run), "--case", "0004", "--p0", "0.05", "0.9"]
    with own_settings():
        figure = command.draw(command.parser().parse_args(arguments)).figure
        main(["stages", *arguments, "--output", str(tmp_path / "stages")])
    lines = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert [line.split("\n")[1] for line in lines] == ["p0 = 0.05", "p0 = 0.9"]
    shares = [float(axes.get_xlabel().split("%")[0]) for axes in figure.axes if "exited" in axes.get_xlabel()]
    low, high = shares[: len(shares) // 2], shares[len(shares) // 2 :]
    assert sum(low) > sum(high), "a lower threshold lets more tokens exit"
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".pdf"}


def test_a_threshold_of_another_method_is_one_message(finished_run: Path) -> None:
    options = command.parser().parse_args([str(finished_run), "--case", "0004", "--p0", "0.5"])
    with own_settings(), pytest.raises(UserError, match=r"encoder\.reducer\.p0 of a trained STP can't be changed"):
        command.draw(options)
