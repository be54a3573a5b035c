"""The training loader is exactly repeatable."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sct.data.cases import Batch
from sct.data.loading.loader import case_of_sample


def batches(data, *, start: int = 0, steps: int = 6, seed: int = 3, **kwargs: int) -> list[Batch]:
    return list(data.train_loader(seed=seed, start_step=start, num_steps=steps, **kwargs))


def assert_same(ones: list[Batch], others: list[Batch]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one["case"] == other["case"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])


def joined(parts: list[Batch]) -> Batch:
    return Batch(
        image=torch.cat([part["image"] for part in parts]),
        label=torch.cat([part["label"] for part in parts]),
        case=[case for part in parts for case in part["case"]],
    )


def test_batch_is_plain_contiguous_tensors(make_btcv: Callable) -> None:
    batch = batches(make_btcv(), steps=1)[0]
    assert type(batch["image"]) is torch.Tensor
    assert type(batch["label"]) is torch.Tensor
    assert batch["image"].shape == (4, 1, 8, 8, 8)
    assert batch["label"].shape == (4, 8, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].dtype == torch.int64
    assert batch["image"].is_contiguous()
    assert len(batch["case"]) == 4


def test_resumed_run_sees_what_the_undisturbed_run_saw(make_btcv: Callable) -> None:
    whole = batches(make_btcv())
    assert_same(whole[4:], batches(make_btcv(), start=4, steps=2))
    data = make_btcv()
    batches(data, steps=3)
    assert_same(whole[3:], batches(data, start=3, steps=3))


def test_order_of_cases_and_draws_depends_on_the_seed(make_btcv: Callable) -> None:
    one, other = batches(make_btcv(), steps=2), batches(make_btcv(), steps=2, seed=4)
    assert not torch.equal(one[0]["image"], other[0]["image"])


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_workers_and_caches_change_nothing(make_btcv: Callable, cache: str) -> None:
    assert_same(batches(make_btcv(cache="none")), batches(make_btcv(cache=cache, num_workers=2)))


def test_two_ranks_see_together_what_one_process_of_twice_the_batch_sees(make_btcv: Callable) -> None:
    alone = batches(make_btcv(batch_size=4))
    ranks = [batches(make_btcv(batch_size=2), rank=rank, world_size=2) for rank in range(2)]
    assert_same(alone, [joined(list(parts)) for parts in zip(*ranks, strict=True)])


def test_accumulation_sees_what_one_larger_batch_sees(make_btcv: Callable) -> None:
    alone = batches(make_btcv(batch_size=4))
    small = batches(make_btcv(batch_size=2), micro_batches=2)
    assert len(small) == 12
    assert_same(alone, [joined(small[i : i + 2]) for i in range(0, 12, 2)])


def test_global_random_states_are_neither_used_nor_moved(make_btcv: Callable) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    before = torch.get_rng_state().clone()
    first = batches(make_btcv(), steps=2)
    assert torch.equal(before, torch.get_rng_state())
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    assert_same(first, batches(make_btcv(), steps=2))


def test_switching_one_transform_off_leaves_the_draws_of_the_others(make_btcv: Callable) -> None:
    data, without = make_btcv(), make_btcv()
    without.augment["shift"] = None
    for one, other in zip(batches(data), batches(without), strict=True):
        assert torch.equal(one["label"], other["label"])


def test_every_epoch_visits_every_case_once() -> None:
    for epoch in range(3):
        visited = [case_of_sample(epoch * 7 + n, num_cases=7, seed=1) for n in range(7)]
        assert sorted(visited) == list(range(7))
