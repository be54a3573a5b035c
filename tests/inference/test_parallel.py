"""Forward passes side by side: in order, on shared threads, in the caller's precision, never far ahead."""

import threading

import numpy as np
import pytest
import torch
from little_volumes import FakeVolume
from torch import nn

from sct.data.outputs import numbered
from sct.inference import FastSlidingWindow, predict_volume
from sct.inference.parallel import AHEAD, in_order
from sct.inference.regrid import SourceGrid

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order(workers):
    assert list(in_order(lambda n: n * n, range(7), workers=workers, device=CPU)) == [n * n for n in range(7)]
    assert list(in_order(lambda n: n, [], workers=workers, device=CPU)) == []


def test_workers_compute_at_the_same_time():
    """Both wait for each other, and would wait for ever if one came after the other."""
    both = threading.Barrier(2)
    assert len(list(in_order(lambda _: both.wait(10), range(4), workers=2, device=CPU))) == 4


def test_threads_are_shared_out_and_given_back_with_the_last_result():
    found, here = [], []
    for threads in in_order(lambda _: torch.get_num_threads(), range(6), workers=2, device=CPU):
        found.append(threads), here.append(torch.get_num_threads())
    assert found == [2] * 6
    assert here == [2] * 5 + [4]
    assert torch.get_num_threads() == 4
    assert list(in_order(lambda _: torch.get_num_threads(), range(2), workers=1, device=CPU)) == [4, 4]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_callers_autocast_holds_in_the_workers(enabled):
    layer = nn.Linear(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        found = list(in_order(lambda _: layer(torch.ones(1, 4)).dtype, range(3), workers=2, device=CPU))
    assert found == [torch.bfloat16 if enabled else torch.float32] * 3


def test_no_further_ahead_than_there_are_workers():
    begun = []
    found = in_order(lambda n: begun.append(n) or n, range(10), workers=2, device=CPU)
    assert next(found) == 0
    assert max(begun) <= 2 * AHEAD
    found.close()
    assert torch.get_num_threads() == 4


def test_errors_are_raised_where_the_result_is_asked_for():
    def compute(number):
        if number == 2:
            raise OSError("window 2")
        return number

    found = in_order(compute, range(9), workers=2, device=CPU)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(OSError, match="window 2"):
        next(found)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("model", "device", "num_batches", "wanted"),
    [
        (nn.Identity(), "cpu", 20, 4),
        (nn.Identity(), "cpu", 3, 3),  # a worker without work would take threads from the others
        (nn.Identity(), "cpu", 0, 1),
        (nn.Identity(), "meta", 20, 1),
        (lambda windows: windows, "cpu", 20, 1),  # as an exported network, with threads of its own
    ],
)
def test_only_networks_on_a_processor_have_several(model, device, num_batches, wanted):
    inferer = FastSlidingWindow(workers=9)
    assert inferer.workers_for(model, num_batches=num_batches, device=torch.device(device)) == wanted


def test_threads_are_given_back_after_an_exception_that_is_kept(monkeypatch):
    """As a notebook keeps the last one: its traceback holds whatever the frames of the prediction name."""

    def fail(*_):
        assert torch.get_num_threads() == 2
        raise MemoryError

    monkeypatch.setattr(SourceGrid, "add", fail)
    volume = FakeVolume(torch.randn(2, 12, 8, 8), np.eye(4), (12, 8, 8), np.eye(4))
    inferer = FastSlidingWindow(workers=2, batch_size=1)
    with pytest.raises(MemoryError) as kept:
        predict_volume(nn.Identity(), volume, inferer, roi_size=(4, 4, 4), outputs=numbered(2), device=CPU)
    assert kept.traceback
    assert torch.get_num_threads() == 4
