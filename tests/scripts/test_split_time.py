"""The split of a prediction's time: all stages are there, and the label map is that of sct.predict."""

import runpy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import run_command
from torch import nn

from sct import predict
from sct.inference import FastSlidingWindow, SlidingWindow

SCRIPT = Path(__file__).parents[2] / "scripts" / "split_time.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_stages_of_a_prediction(script, finished_run, workplace, tmp_path, capsys):
    image = sorted((workplace / "data" / "phantom_smoke").rglob("img/*.nii.gz"))[-1]
    where = [f"ckpt={finished_run}", f"input={image}", "inferer=fast", "inferer.overlap=0.5"]
    script["main"]([*where, f"output={tmp_path}/split", "--repeats", "1"])
    cells = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line[0].strip("| ") for line in cells[1:]] == [*script["STAGES"], "all"]
    # the smallest stages round to nothing, the network's do not
    assert sum(float(line[2].split()[0]) for line in cells[1:-1]) == pytest.approx(100, abs=1)
    outcome = run_command(predict.main, *where, f"output={tmp_path}/own")
    assert outcome.status == 0, outcome
    split, own = (np.asarray(nib.load(tmp_path / name / image.name).dataobj) for name in ("split", "own"))
    np.testing.assert_array_equal(split, own)


@pytest.mark.parametrize(
    ("output", "changed", "told"),
    [("", [], "would overwrite the input"), ("out", ["--repeats", "0"], "--repeats 0: give 1 or more")],
)
def test_mistakes_end_before_anything_is_written(script, finished_run, workplace, tmp_path, output, changed, told):
    image = tmp_path / "scan.nii.gz"
    image.write_bytes(sorted((workplace / "data" / "phantom_smoke").rglob("img/*.nii.gz"))[-1].read_bytes())
    before = image.read_bytes()
    with pytest.raises(SystemExit, match=told):
        script["main"]([f"ckpt={finished_run}", f"input={image}", f"output={tmp_path / output}", *changed])
    assert image.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_shares_are_of_the_sum_of_medians(script):
    rounds = [dict.fromkeys(script["STAGES"], seconds) for seconds in (1.0, 2.0, 9.0)]
    lines = script["table"](rounds).splitlines()
    assert lines[2] == "| reading | 2.00 | 12.5 % |"
    assert lines[-1] == "| all | 16.00 | |"


def test_parts_are_timed_one_window_after_the_other(script):
    assert script["alone"](FastSlidingWindow(workers=3, overlap=0.1)) == FastSlidingWindow(workers=1, overlap=0.1)
    assert script["alone"](reference := SlidingWindow()) is reference


class Slow(nn.Module):
    """Encoder or completion: takes so many seconds by the clock that it is given."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x):
        self.clock.time += self.seconds
        return x


class SlowDecoder(Slow):
    """In two stages; as a whole not by way of `features`, as `light`."""

    def features(self, image, dense):
        return super().forward(dense)

    def voxels(self, features, image):
        return super().forward(features)

    def forward(self, image, dense):
        return self.voxels(super().forward(dense), image)


@pytest.mark.parametrize("in_stages", [False, True])
def test_every_part_is_booked_where_it_belongs(script, in_stages):
    class Clock(script["Clock"]):
        time = 0.0

        def now(self):
            return self.time

    clock, network = Clock(torch.device("cpu")), nn.Module()
    network.encoder, network.completion = Slow(clock, 1.0), Slow(clock, 2.0)
    network.decoder = SlowDecoder(clock, 4.0)
    script["watch"](network, clock, in_stages=in_stages)
    clock.start()
    for _ in range(2):
        clock.time += 0.5  # a window is cut out
        dense = network.completion(network.encoder(0))
        if in_stages:
            network.decoder.features(0, dense)
        else:
            network.decoder(0, dense)
    if in_stages:
        clock.time += 0.25  # what was stitched is taken
        network.decoder.voxels(0, 0)
    decoder, stitching = (12.0, 1.25) if in_stages else (16.0, 1.0)
    assert clock.seconds == {"encoder": 2.0, "completion": 4.0, "decoder": decoder, "stitching": stitching}
