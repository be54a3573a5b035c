"""Other rankings of the tokens of a trained network: as many tokens stay, but other ones. Every method that chooses."""

import numpy as np
import pytest
import torch
from little_models import CLASSES, Combination, little_batch, little_network

from sct.data.cases import LabelMap
from sct.data.outputs import Classes
from sct.errors import UserError
from sct.evaluation.selection import RANKINGS, Ranked
from sct.models.grid import pruning_depth

OUTPUTS = Classes(LabelMap(("background", *(f"class {number}" for number in range(1, CLASSES)))))
METHODS = ("stp", "evit", "minscore", "random", "dynamicvit", "asvit", "dtop", "cropr", "tome", "apformer")
# settings with which an untrained network keeps some tokens, and their number does not depend on which they are
SETTINGS = {
    "dtop": ("encoder.reducer.context=remove",),
    "tome": ("encoder.reducer.ratio=0.25",),
    "apformer": ("encoder.gate.threshold=0.5145",),
}


def combination(method: str) -> Combination:
    completion, decoder = {"dtop": ("scatter", "fcn"), "apformer": ("scatter", "unet")}.get(method, ("mta", "fcn"))
    return Combination(method, completion, decoder, 2)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_every_ranking_keeps_as_many_tokens(method):
    which = combination(method)
    network = little_network(which, *SETTINGS.get(method, ()))
    image, label = little_batch(which)
    windows = torch.cat([image, label.unsqueeze(1).to(image.dtype)], dim=1)
    own, first = network(image), pruning_depth(network.encoder(image)) >= 1
    found = {}
    for ranking in RANKINGS:
        model = Ranked(network, ranking, outputs=OUTPUTS, seed=0)
        logits = model(windows)
        found[ranking] = logits
        assert model.shares.of("all", 1) == pytest.approx(first.float().mean().item())
    assert torch.equal(found["learned"], own)
    assert torch.equal(network(image), own), "nothing is left behind"
    assert not torch.allclose(found["inverted"], own)


@torch.no_grad()
def test_the_truth_keeps_boundaries_first_and_the_learned_ranking_is_compared_with_its_mirror():
    which = combination("stp")
    network = little_network(which)
    image, _ = little_batch(which)
    label = torch.zeros(image.shape[0], *image.shape[2:])
    label[:, :3, :3] = 1
    windows = torch.cat([image, label.unsqueeze(1)], dim=1)
    truth, learned = (Ranked(network, ranking, outputs=OUTPUTS, seed=0) for ranking in ("truth", "learned"))
    truth(windows)
    learned(windows)
    assert truth.shares.of("foreground", 1) == 1
    assert len(learned.agreements) == len(image)
    assert np.all(np.abs(learned.agreements) <= 1)


def test_a_network_that_chooses_nothing_is_refused():
    with pytest.raises(UserError, match="chooses no tokens"):
        Ranked(little_network(Combination("dense", "scatter", "fcn", 2)), "learned", outputs=OUTPUTS, seed=0)
