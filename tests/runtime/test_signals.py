"""Signals: an exception where nothing must be waited for, a note where something must; the second one ends at once."""

import os
import signal
import threading

import pytest

from sct.runtime.signals import REQUEUE, Ending, Interrupted

NUMBERS = (signal.SIGINT, signal.SIGTERM)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_and_tells_the_status(number, status):
    with pytest.raises(Interrupted, match=r"Ended by SIG\w+\. .*resume=auto") as caught, Ending():
        send(number)
    assert caught.value.status == status
    assert isinstance(caught.value, KeyboardInterrupt), "who catches the failure of one case must not catch it"


def test_a_held_signal_waits(capfd):
    with Ending() as ending:
        ending.check()
        with ending.held():
            send(signal.SIGTERM)
            assert ending.received == signal.SIGTERM
        with pytest.raises(Interrupted):
            ending.check()
    assert capfd.readouterr().err == "SIGTERM: saving first; a second signal ends at once\n"


def test_a_signal_raises_in_an_open_block_of_a_held_one():
    with Ending(announce=False) as ending, ending.held(), pytest.raises(Interrupted), ending.open():
        send(signal.SIGTERM)
    with Ending(announce=False) as ending, ending.held():
        send(signal.SIGTERM)
        with pytest.raises(Interrupted), ending.open():
            pytest.fail("the signal has come before the block")


def test_the_second_signal_is_the_systems():
    with Ending(announce=False) as ending, ending.held():
        send(signal.SIGTERM)
        assert [signal.getsignal(number) for number in NUMBERS] == [signal.SIG_DFL] * 2


def test_the_copy_of_a_signal_that_torchrun_passes_on_is_no_second_one(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    killed = []
    with Ending(announce=False, patience=1.0) as ending, ending.held():
        send(signal.SIGINT)
        now[0] += 0.5
        send(signal.SIGINT)
        now[0] += 1.0
        with monkeypatch.context() as patch:
            real = os.kill
            patch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
            real(os.getpid(), signal.SIGTERM)
        assert killed == [(os.getpid(), signal.SIGTERM)]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_other_threads_change_nothing():
    found = []

    def enter() -> None:
        with Ending():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.skipif(REQUEUE is None, reason="this system has no SIGUSR1")
def test_further_signals_are_asked_for():
    with pytest.raises(Interrupted), Ending(also=(REQUEUE,)):
        send(REQUEUE)
    assert signal.getsignal(REQUEUE) == signal.SIG_DFL
