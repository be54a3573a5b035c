"""A data set of pictures with three classes, by config alone: trained, evaluated, and predicted as its masks are."""

from pathlib import Path

import numpy as np
import pytest
from commands import assert_one_message, run_command
from PIL import Image

from sct import eval as evaluation
from sct import predict, train

PALETTE = (0, 0, 0, 250, 200, 10, 20, 30, 240)
SMALL = (
    "+experiment=demo",
    "data=pictures",
    "data.values={road: 1, house: 2}",
    "data.roi_size=[32,32]",
    "data.batch_size=2",
    "encoder=dense",
    "completion=scatter",
    "decoder=fcn",
    "encoder.depth=2",
    "encoder.dim=24",
    "encoder.num_heads=2",
    "encoder.taps=0",
    "encoder.patch_size=8",
    "trainer.max_steps=2",
    "trainer.validate_every=2",
    "trainer.precision=fp32",
    "trainer.tensorboard=false",
    "schedule.warmup_steps=0",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of different sizes, one of them held upright by its camera, and masks with a palette."""
    place = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (place / "set" / folder).mkdir(parents=True)
    for number in range(6):
        shape = (40 + 8 * number, 56)
        labels = np.zeros(shape, np.uint8)
        labels[:, 10:30], labels[12:30, 35:50] = 1, 2
        pixels = (labels[..., None] * 90 + rng.integers(0, 40, (*shape, 3))).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 0 else 1
        Image.fromarray(np.rot90(pixels) if number == 0 else pixels).save(
            place / f"set/images/p{number}.png", exif=exif
        )
        mask = Image.fromarray(labels)
        mask.putpalette(PALETTE)
        mask.save(place / f"set/masks/p{number}.png")
    return place


def test_from_pictures_to_masks_with_their_palette(place, tmp_path):
    paths = (f"paths.outputs={place}/runs", f"data.root={place}/set")
    outcome = run_command(train.main, *SMALL, *paths, f"run_dir={place}/run")
    assert outcome.status == 0, outcome.err
    assert "p0.png: turned upright as the camera says" in outcome.out
    outcome = run_command(evaluation.main, f"ckpt={place}/run", f"output={place}/scores")
    assert outcome.status == 0, outcome.err
    assert {"| road", "| house"} <= {line[:7].rstrip() for line in (place / "scores/table.md").read_text().splitlines()}

    # the run owns the palette: its training data may be gone
    (place / "set").rename(place / "gone")
    inputs = place / "gone/images"
    outcome = run_command(predict.main, f"ckpt={place}/run", f"input={inputs}", f"output={tmp_path}/out")
    assert outcome.status == 0, outcome.err
    for number in range(6):
        written, truth = (Image.open(folder / f"p{number}.png") for folder in (tmp_path / "out", place / "gone/masks"))
        assert (written.mode, written.size) == ("P", truth.size)
        assert tuple(written.getpalette()) == PALETTE
        assert np.asarray(written).max() <= 2
    outcome = run_command(predict.main, f"ckpt={place}/run", f"input={inputs}", f"output={inputs}")
    assert_one_message(outcome, "would overwrite the input")
    outcome = run_command(predict.main, f"ckpt={place}/run", f"input={inputs}", f"output={place}/no", "format=nrrd")
    assert_one_message(outcome, "format=nrrd", "for medical images")
