"""What a run measures about its tokens."""

import math

import numpy as np
import pytest
import torch

from sct.data.cases import LabelMap
from sct.data.outputs import Classes
from sct.errors import UserError
from sct.evaluation.tokens import known_means, token_statistics
from sct.models.grid import foreground_patches
from sct.models.tokens import Encoded, Prediction, Scores, Tokens
from sct.training.validation import MEAN, dice_row, foreground_window, is_better

OUTPUTS = Classes(LabelMap(("background", "a", "b")))


def test_token_statistics_by_hand():
    """Two images of 2 x 2 patches: the first keeps places 1 and 3, the second place 0."""
    everything = Tokens(torch.zeros(2, 4, 1), torch.arange(4).expand(2, -1))
    keep = torch.tensor([[False, True, False, True], [True, False, False, False]])
    final, dropped = everything.select(keep), everything.select(~keep)
    encoded = Encoded(
        (2, 2),
        final,
        torch.zeros(2, 1, 1),
        dropped=[dropped],
        alive=[final.count()],
        scores=[Scores(torch.tensor([[4.0, 3, 2, 1], [4, 1, 3, 2]]), everything.index, num_kept=3)],
        aux={"threshold_1": torch.tensor(0.5), "share": torch.tensor([0.25, 0.75]), "scores": torch.zeros(2, 4)},
    )
    label = torch.zeros(2, 4, 4, dtype=torch.long)
    label[0, 0, 3] = 1  # patch 1 of image 0: kept
    label[1, 0, 0] = 2  # patch 0 of image 1: kept
    label[1, 3, 0] = 1  # patch 2 of image 1: lost
    prediction = Prediction(torch.zeros(2, 2, 4, 4), encoded, aux={"skipped": torch.tensor([0.0, 0.5])})
    row = token_statistics(prediction, label, patch_size=(2, 2), outputs=OUTPUTS)
    assert row == {
        "tokens/alive_1": 1.5,
        "tokens/kept_1": 3 / 8,
        "tokens/foreground_kept_1": pytest.approx(2 / 3),
        # each voxel of foreground is predicted as background, and is a boundary of its patch alone
        "tokens/boundary_kept_1": pytest.approx(2 / 3),
        "tokens/wrong_kept_1": pytest.approx(2 / 3),
        "tokens/foreground_chosen_1": 1.0,
        "reducer/spread_1": pytest.approx(math.sqrt(5 / 4)),
        "tokens/fewest_1": 1,
        "tokens/most_1": 2,
        "reducer/threshold_1": 0.5,
        "reducer/share": 0.5,
        "decoder/skipped": 0.25,
    }


def test_a_dense_encoder_has_no_token_statistics():
    tokens = Tokens(torch.zeros(1, 4, 1), torch.arange(4).expand(1, -1))
    encoded = Encoded((2, 2), tokens, torch.zeros(1, 1, 1))
    prediction = Prediction(torch.zeros(1, 2, 4, 4), encoded)
    assert (
        token_statistics(prediction, torch.zeros(1, 4, 4, dtype=torch.long), patch_size=(2, 2), outputs=OUTPUTS) == {}
    )


def test_patches_and_window_of_slices():
    label = torch.zeros(3, 8, 8, dtype=torch.long)
    label[1, 0, 7], label[2, 4:6, 4:6] = 1, 2
    found = foreground_patches(label.unsqueeze(0), patch_size=(1, 4, 4))
    assert found.shape == (1, 3, 2, 2)
    assert found.nonzero()[:, 1:].tolist() == [[1, 0, 1], [2, 1, 1]]
    image = torch.arange(3.0).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    window, truth = foreground_window(image, label, size=[4, 4])
    assert window.shape == (1, 4, 4)
    assert (window == 2).all()
    assert (truth == 2).sum() == 4


def test_numbers_are_averaged_over_the_rows_that_have_them():
    """As the processes of a run have them; in the order of the first row that does."""
    rows = [{"a": 1.0, "b": 4.0}, {"c": 5.0, "a": 2.0}]
    assert list(known_means(rows).items()) == [("a", 1.5), ("b", 4.0), ("c", 5.0)]
    assert known_means(rows[:1]) == rows[0]


def test_nothing_to_score_is_no_nan_and_keeps_the_newest_weights():
    empty = dice_row(np.full((2, 2), np.nan), names=("a", "b"))
    assert empty == {}
    assert is_better(empty, {}, metric=MEAN)
    assert is_better(empty, {"step": 2}, metric=MEAN)
    scored = dice_row(np.array([[0.5, np.nan]]), names=("a", "b"))
    assert is_better(scored, {"step": 2}, metric=MEAN)
    assert not is_better(empty, scored, metric=MEAN)
    assert not is_better(scored, scored, metric=MEAN)
    with pytest.raises(UserError, match="no validation case has this class"):
        is_better(scored, {}, metric="val/dice/b")
