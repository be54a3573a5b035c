"""What every combination of encoder, completion and decoder promises, in 2-D and 3-D.

The combinations are the files of the config groups: a new file is tested here without a line of code, but for
the arithmetic of its cost (closed_form.py) and, for a reducer, the setting that prunes nothing.
"""

import copy
import io

import pytest
import torch
from closed_form import closed_form
from little_models import (
    CLASSES,
    COMBINATIONS,
    REFUSED,
    Combination,
    Pairs,
    covering,
    little_batch,
    little_config,
    little_criterion,
    little_network,
    options,
)

from sct.config.check import build
from sct.errors import UserError
from sct.models.completion.mim import MIM
from sct.models.completion.scatter import Scatter
from sct.models.decoders.atm import ATM
from sct.models.decoders.fcn import FCN
from sct.models.grid import presence
from sct.models.reducers.dtop import DToP
from sct.models.segmenter import Segmenter
from sct.models.tokens import Prediction
from sct.profiling.macs import PARTS, count_macs

# how to tell an encoder to prune nothing, where it is not this
KEEP_ALL: dict[str, str] = {"asvit": "encoder.reducer.thresholds=[-1,-1]", "dtop": "encoder.reducer.p0=1.0"}
KEEP_ALL_DEFAULT = "pruning.ratio=0.0"
# methods that keep a different number of tokens of every image: no fixed graph, cost, or result without values
DATA_DEPENDENT: set[str] = {"asvit", "dtop", "apformer", "ap_transunet"}
# every token stays: completions have nothing to complete
KEEPING: set[str] = {"setr", "ap_setr", "transunet", "ap_transunet", "apformer", "primus", "primus_v2", "primus_v3"}
# the kind of token sets that completion and decoder get, where it is not the same number of tokens of every image
KINDS: dict[str, str] = {"asvit": "packed", "dtop": "early exits", "dynamicvit": "masked"}
# decoder -> why it refuses an encoder
REASONS = {"unet": r"decoder=unet needs the pyramid.*this encoder has none\. Choose encoder="}


def meetings(which: Combination) -> list[tuple[object, ...]]:
    """Which parts meet: encoder and completion, completion and decoder, kind of token sets and decoder; in 2-D and 3-D.

    An encoder and a decoder do not: a decoder sees what the completion made of the tokens, and knows their kind.
    """
    encoder, completion, decoder, dims = which
    if encoder in KEEPING and completion != "scatter":
        return []
    kind = "all" if encoder in KEEPING else KINDS.get(encoder, "fixed")
    return [
        *((encoder, completion), (completion, decoder), (kind, decoder)),
        *((encoder, dims), (completion, dims), (decoder, dims)),
    ]


def parts(which: Combination) -> list[tuple[object, ...]]:
    """Every encoder, completion and decoder, in 2-D or in 3-D."""
    return [(part,) for part in which]


def encoders(which: Combination) -> list[tuple[object, ...]]:
    """Every encoder in 2-D and in 3-D."""
    return [(which.encoder, which.dims)]


def combinations(
    pairs: Pairs = meetings, *, fixed: bool = False, among: list[Combination] = COMBINATIONS
) -> pytest.MarkDecorator:
    """Runs a test on a few combinations in which all `pairs` occur, and on the others with -m long.

    `fixed` leaves out the methods whose number of tokens depends on the image.
    """
    candidates = [which for which in among if not (fixed and which.encoder in DATA_DEPENDENT)]
    chosen = covering(candidates, pairs)
    params = [pytest.param(which, marks=() if which in chosen else pytest.mark.long) for which in candidates]
    return pytest.mark.parametrize("which", params, ids=str)


class Networks(dict[Combination, Segmenter]):
    """The network of a combination in evaluation mode, built when it is first asked for; who trains takes a copy."""

    def __missing__(self, which: Combination) -> Segmenter:
        self[which] = little_network(which)
        return self[which]


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks()


@combinations(parts, among=REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(which):
    with pytest.raises(UserError, match=REASONS[which.decoder]):
        little_network(which)


@combinations()
@torch.no_grad()
def test_shapes_and_finite_values(which, networks):
    image, _ = little_batch(which)
    network = networks[which]
    logits = network(image)
    assert logits.shape == (2, CLASSES, *which.image_size)
    assert logits.isfinite().all()
    trained = copy.deepcopy(network).train()(image)
    assert isinstance(trained, Prediction)
    assert trained.logits.shape == logits.shape
    assert trained.logits.isfinite().all()
    spec = network.completion.spec
    dense = network.completion(network.encoder(image))
    assert dense.grid == spec.grid
    assert [x.shape for x in (dense.x, *dense.taps)] == [(2, spec.num_tokens, spec.dim)] * (1 + spec.num_taps)


@combinations()
def test_every_parameter_gets_a_gradient(which, networks):
    network = copy.deepcopy(networks[which]).train()
    criterion = little_criterion(little_config(which))
    for seed in (1, 2):
        image, label = little_batch(which, seed=seed)
        criterion(network(image), label, image=image)["loss"].backward()
        trained = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
        assert [name for name, grad in trained.items() if grad is None] == []
    assert [name for name, grad in trained.items() if not grad.isfinite().all()] == []
    assert {name for name, grad in trained.items() if not grad.any()} == idle(network)


def idle(network: Segmenter) -> set[str]:
    """What a combination has no use for: mask tokens where nothing is missing, a class token that nothing reads.

    And norms of exited tokens, which keep the prediction of an early head.
    """
    names = set()
    if isinstance(network.completion, MIM) and not network.encoder.spec.num_dropped:
        names.add("completion.mask_token")
    if isinstance(network.completion, Scatter) and not network.encoder.depth:
        names.add("encoder.class_token")
    keeps_predictions = isinstance(network.encoder.reducer, DToP) and isinstance(network.decoder, FCN | ATM)
    if isinstance(network.completion, Scatter) and keeps_predictions:
        names |= {f"completion.{name}" for name, _ in network.completion.named_parameters()}
    return names


@combinations(encoders)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@torch.no_grad()
def test_final_and_dropped_cover_the_grid_once(which, training, networks):
    network = copy.deepcopy(networks[which]).train(training)
    encoded = network.encoder(little_batch(which)[0])
    spec = network.encoder.spec
    assert encoded.grid == spec.grid
    assert encoded.prefix.shape == (2, spec.num_prefix, spec.dim)
    assert len(encoded.dropped) == spec.num_dropped, "one set a stage, in training as in evaluation"
    assert encoded.num_depths == spec.num_depths, "also where dropped tokens came back"
    assert len(encoded.taps) == spec.num_taps
    for tokens in encoded.sets:
        assert tokens.x.shape == (*tokens.index.shape, spec.dim)
        assert tokens.batch_size == 2
        for places in tokens.per_image(tokens.index):
            placed = places[places < spec.num_tokens]
            assert (placed.diff() > 0).all(), "spatial order"
    # also where a set is packed, or a mask says which tokens are its own
    seen = sum(presence(tokens, num_tokens=spec.num_tokens) for tokens in encoded.sets)
    assert torch.equal(seen, torch.ones(2, spec.num_tokens))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", options("encoder"))
@torch.no_grad()
def test_nothing_pruned_equals_dense(encoder, dims):
    which = Combination(encoder, "scatter", "unetr", dims)
    sparse = little_network(which, KEEP_ALL.get(encoder, KEEP_ALL_DEFAULT)).encoder
    cfg = little_config(which).copy()
    cfg.encoder.reducer = None
    dense = build(cfg.encoder, key="encoder", image_size=which.image_size, in_channels=2, num_classes=CLASSES).eval()
    weights = {name: p for name, p in sparse.state_dict().items() if not name.startswith("reducer.")}
    dense.load_state_dict(weights)
    image, _ = little_batch(which)
    ours, theirs = sparse(image), dense(image)
    assert torch.equal(ours.final.x, theirs.final.x)
    assert torch.equal(ours.prefix, theirs.prefix)
    assert [tokens.count().sum().item() for tokens in ours.dropped] == [0] * sparse.spec.num_dropped
    assert all((alive == sparse.spec.num_tokens).all() for alive in ours.alive)


@combinations(parts)
@torch.no_grad()
def test_evaluation_is_deterministic(which, networks):
    image, _ = little_batch(which)
    torch.manual_seed(0)
    first = networks[which](image)
    torch.manual_seed(1)
    assert torch.equal(first, networks[which](image))


@combinations()
@torch.no_grad()
def test_a_batch_of_two_is_two_batches_of_one(which, networks):
    image, _ = little_batch(which)
    alone = torch.cat([networks[which](image[:1]), networks[which](image[1:])])
    torch.testing.assert_close(networks[which](image), alone, rtol=1e-5, atol=1e-5)


@combinations(fixed=True)
def test_macs_equal_the_closed_form(which):
    with torch.device("meta"):
        network = little_network(which)
        image = torch.empty(1, 2, *which.image_size)
    expected = closed_form(network)
    assert set(expected) == {"total", *PARTS}
    assert count_macs(network, image) == expected


@combinations(parts)
@torch.no_grad()
def test_state_dict_round_trip(which, networks):
    file = io.BytesIO()
    torch.save(networks[which].state_dict(), file)
    file.seek(0)
    other = little_network(which, seed=1)
    image, _ = little_batch(which)
    assert not torch.equal(other(image), networks[which](image))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(image), networks[which](image))


@combinations(parts, fixed=True)
def test_meta_device(which):
    with torch.device("meta"):
        network = little_network(which)
        image = torch.empty(1, 2, *which.image_size)
        assert network(image).shape == (1, CLASSES, *which.image_size)
        assert network.train()(image).logits.shape == (1, CLASSES, *which.image_size)
    assert {p.device.type for p in network.parameters()} == {"meta"}


@combinations(parts, fixed=True)
@torch.no_grad()
def test_compile(which, networks):
    torch.compiler.reset()
    compiled = torch.compile(networks[which], backend="eager", fullgraph=True)
    for seed in (1, 2):
        image, _ = little_batch(which, seed=seed)
        torch.testing.assert_close(compiled(image), networks[which](image))


@combinations(parts, fixed=True)
@torch.no_grad()
def test_export(which, networks):
    exported = torch.export.export(networks[which], (little_batch(which)[0],)).module()
    # an image that it was not traced with: nothing of the first one's choice of tokens may be baked in
    image, _ = little_batch(which, seed=2)
    torch.testing.assert_close(exported(image), networks[which](image))
