"""What is told of tokens, by hand on four patches."""

import math

import pytest
import torch

from sct.data.cases import LabelMap
from sct.data.outputs import Classes
from sct.evaluation.tokens import (
    alive_spread,
    alive_tokens,
    chosen_shares,
    kept_shares,
    known_means,
    method_numbers,
    token_statistics,
)
from sct.models.tokens import Encoded, Prediction, Scores, Tokens

OUTPUTS = Classes(LabelMap(("background", "organ")))
# number of stages that each patch of two images survived, of two stages
DEPTH = torch.tensor([[[0, 1], [2, 2]], [[1, 1], [0, 2]]])


def prediction():
    """Dropped sets of two stages and a final set, masked: what DEPTH says."""
    index = torch.arange(4).expand(2, -1)
    sets = [Tokens(torch.zeros(2, 4, 1), index, mask=(DEPTH.flatten(1) == depth).float()) for depth in range(3)]
    alive = [torch.tensor([3.0, 3.0]), torch.tensor([2.0, 1.0])]
    aux = {"threshold_1": torch.tensor(0.5), "share": torch.tensor([1.0, math.nan]), "score_1": torch.zeros(2, 4)}
    encoded = Encoded((2, 2), sets[2], torch.zeros(2, 1, 1), dropped=sets[:2], alive=alive, aux=aux)
    return Prediction(torch.zeros(2, 2, 4, 4), encoded, aux={"own": torch.tensor(7.0)})


def test_shares_kept_at_every_stage():
    foreground = torch.tensor([[[True, True], [True, False]], [[False, False], [False, False]]])
    kinds = {"foreground": foreground}
    assert kept_shares(DEPTH, kinds, num_stages=2, unit="patches") == pytest.approx(
        {
            "patches/kept_1": 6 / 8,
            "patches/foreground_kept_1": 2 / 3,
            "patches/kept_2": 3 / 8,
            "patches/foreground_kept_2": 1 / 3,
        }
    )
    nothing = kept_shares(DEPTH, {"foreground": torch.zeros_like(foreground)}, num_stages=1)
    assert nothing == {"tokens/kept_1": 0.75}


def test_foreground_that_the_scores_choose():
    foreground = torch.tensor([[[True, False], [True, True]]])
    # of places 0, 1, 3 and a fused token (place 4, the highest score) two are kept: 4 and 1
    fused = Scores(torch.tensor([[0.2, 0.6, 0.3, 0.9]]), torch.tensor([[0, 1, 3, 4]]), num_kept=2)
    found = chosen_shares([fused], foreground)
    assert found["tokens/foreground_chosen_1"] == 0
    more = Scores(fused.values, fused.index, num_kept=3)
    assert chosen_shares([more], foreground)["tokens/foreground_chosen_1"] == 0.5


def test_numbers_of_tokens_alive():
    assert alive_tokens(prediction()) == pytest.approx(
        {"tokens/alive_1": 3, "tokens/kept_1": 0.75, "tokens/alive_2": 1.5, "tokens/kept_2": 0.375}
    )
    assert alive_spread([torch.tensor([5.0, 2, 9]), torch.tensor([1.0, 1, 3])]) == {
        "tokens/fewest_1": 2,
        "tokens/most_1": 9,
        "tokens/fewest_2": 1,
        "tokens/most_2": 3,
    }


def test_numbers_of_the_method_and_of_the_decoder():
    assert method_numbers(prediction()) == {"reducer/threshold_1": 0.5, "reducer/share": 1.0, "decoder/own": 7.0}


def test_all_together():
    label = torch.zeros(2, 4, 4, dtype=torch.long)
    label[0, 0, 3] = 1  # a patch that the first stage keeps and the second drops
    found = token_statistics(prediction(), label, patch_size=(2, 2), outputs=OUTPUTS)
    assert (found["tokens/foreground_kept_1"], found["tokens/foreground_kept_2"]) == (1, 0)
    assert (found["tokens/fewest_2"], found["tokens/most_2"]) == (1, 2)
    assert found["reducer/threshold_1"] == 0.5
    assert "tokens/alive_reentered" not in found
    again = prediction()
    again.encoded.alive.append(torch.tensor([4.0, 2.0]))
    assert token_statistics(again, label, patch_size=(2, 2), outputs=OUTPUTS)["tokens/alive_reentered"] == 3


def test_means_over_the_rows_that_have_a_number():
    assert known_means([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}
