"""Methods that keep a different number of tokens for each image: accumulation, average, mixed precision and compile.

Two processes: tests/runtime/test_distributed.py.
"""

import copy

import pytest
import torch
from commands import own_settings
from torch import nn

from sct.config.check import build, to_dict
from sct.config.command import compose_config
from sct.runtime.distributed import Processes
from sct.runtime.precision import autocast
from sct.tasks.train import build_trainer
from sct.training.trainer import Trainer, draw_seed

BY_IMAGE = ("loss.pixel.batch=false", "loss.pixel.log=false", "data.batch_size=2")
SLICES = ("+experiment=synapse_apformer", "+debug=smoke_synapse", "trainer.tensorboard=false", "data.batch_size=2")
METHODS = {
    "asvit": ("encoder=asvit", "encoder.reducer.budget=0.9", "encoder.init_std=0.2"),
    "dtop": (
        "encoder=dtop",
        "encoder.reducer.head=fcn",
        "encoder.reducer.context=remove",
        "decoder=fcn",
        "completion=scatter",
    ),
    "apformer": ("encoder.gate.threshold=0.5",),
}


@pytest.fixture(autouse=True)
def one_thread():
    with own_settings():
        yield


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def trainer(method, smoke):
    return make(method, smoke)


def make(method: str, smoke: list[str], *more: str) -> Trainer:
    """With thresholds among the scores of its first batch, so that images keep different numbers of tokens."""
    places = [argument for argument in smoke if argument.startswith("paths.")]
    base = [*SLICES, *places] if method == "apformer" else [*smoke, *BY_IMAGE, "data.roi_size=[24,24,16]"]
    cfg = compose_config("train", overrides=[*base, *METHODS[method], *more])
    data = build(cfg.data, key="data")
    alone = Processes(rank=0, world_size=1, device=torch.device("cpu"))
    trainer = build_trainer(cfg, data=data, processes=alone, config=to_dict(cfg))
    encoder = trainer.segmenter.encoder
    with torch.no_grad():
        aux = copy.deepcopy(encoder).train()(first_batch(trainer)["image"]).aux
    if method == "asvit":
        for stage in range(len(encoder.reducer.blocks)):
            level = aux[f"score_{stage + 1}"][0].median() * encoder.spec.num_tokens
            encoder.reducer.thresholds.data[stage] = level * 1.0001 / encoder.reducer.threshold_rate
    if method == "dtop":
        encoder.reducer.p0 = aux["confidence_1"][0].median().item() * 1.0001
    trainer.begin_average()
    return trainer


def first_batch(trainer: Trainer):
    return next(iter(trainer.batches()))[0]


def loss_of(trainer: Trainer, batch, *, number: int = 0) -> torch.Tensor:
    """The loss of a batch as in `train_step`, with the same noise."""
    trainer.segmenter.train()
    trainer.segmenter.set_progress(0.0)
    torch.manual_seed(draw_seed(trainer.seed, trainer.step, number, 0))
    prediction = trainer.model(batch["image"])
    return trainer.criterion(prediction, batch["label"], image=batch["image"])["loss"]


def gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_images_keep_different_numbers_of_tokens(trainer):
    """Without this the tests below would say nothing."""
    encoded = trainer.segmenter.train()(first_batch(trainer)["image"]).encoded
    counts = [encoded.query_mask.sum(dim=1)] if encoded.query_mask is not None else encoded.alive
    assert any(first != second for first, second in counts)


def test_an_accumulated_step_has_the_mean_gradient_of_its_batches(method, trainer, smoke):
    """Each micro-batch with its own noise and its own statistics of BatchNorm, as it would have alone."""
    accumulating = make(method, smoke, "trainer.accumulate=2")
    accumulating.segmenter.load_state_dict(trainer.segmenter.state_dict())
    batches = next(iter(accumulating.batches()))
    assert len(batches) == 2
    for number, batch in enumerate(batches):
        (loss_of(trainer, batch, number=number) / 2).backward()
    expected = gradients(trainer.segmenter)
    accumulating.train_step(batches)
    found = gradients(accumulating.segmenter)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_the_average_of_the_weights_prunes_too(method, smoke):
    averaging = make(method, smoke, "trainer.ema_decay=0.5", "optimizer.lr=0.01")
    before = nn.utils.parameters_to_vector(averaging.segmenter.parameters()).detach().clone()
    averaging.train_step(next(iter(averaging.batches())))
    now = nn.utils.parameters_to_vector(averaging.segmenter.parameters()).detach()
    assert not torch.equal(now, before)
    torch.testing.assert_close(nn.utils.parameters_to_vector(averaging.ema.parameters()), (before + now) / 2)
    for name, buffer in averaging.segmenter.named_buffers():
        assert torch.equal(averaging.ema.get_buffer(name), buffer)
    image = first_batch(averaging)["image"]
    with torch.no_grad():
        average, latest = averaging.ema.eval()(image), averaging.segmenter.eval()(image)
    assert average.isfinite().all()
    assert not torch.equal(average, latest)


def test_mixed_precision_trains_every_parameter(trainer):
    batch = first_batch(trainer)
    exact = loss_of(trainer, batch)
    with autocast(torch.device("cpu"), torch.bfloat16):
        trainer.segmenter.train()
        torch.manual_seed(draw_seed(trainer.seed, trainer.step, 0, 0))
        prediction = trainer.segmenter(batch["image"])
    parts = trainer.criterion(prediction, batch["label"], image=batch["image"])
    parts["loss"].backward()
    assert parts["loss"].item() == pytest.approx(exact.item(), rel=0.05)
    missing = [name for name, p in trainer.segmenter.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(gradient.isfinite().all() for gradient in gradients(trainer.segmenter).values())


@pytest.mark.long
def test_a_compiled_network_has_the_same_loss_and_gradient(trainer):
    batch = first_batch(trainer)
    loss = loss_of(trainer, batch)
    loss.backward()
    expected = gradients(trainer.segmenter)
    trainer.segmenter.zero_grad()
    torch.compiler.reset()
    # graph breaks where a number depends on values
    # graph breaks where a number depends on values; other backends draw other random numbers for dropout
    trainer.segmenter.compile(backend="eager")
    compiled = loss_of(trainer, batch)
    compiled.backward()
    torch.testing.assert_close(compiled, loss)
    for name, gradient in gradients(trainer.segmenter).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-3, msg=name)
