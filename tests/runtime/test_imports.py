"""Reading a volume never imports MONAI beside a thread that imports a network's parts."""

import subprocess
import sys
from threading import Event, Thread

import numpy as np
import pytest

from sct.config.check import resolve_target
from sct.config.trust import SHIPPED_ALONE
from sct.data.loading.resample import resample_by_monai
from sct.runtime.imports import IMPORTING

# one thread imports a decoder of MONAI's blocks as a command does, the other reads a volume meanwhile
PROGRAM = """
import sys, threading, time
import numpy as np, torch
from sct.config.check import resolve_target
from sct.config.trust import SHIPPED_ALONE
from sct.data.loading.resample import resample_by_monai
from sct.data.loading.transforms import plain_tensors

faults = []
def importing():
    try:
        resolve_target("sct.models.decoders.unetr.UNETR", key="decoder", trust=SHIPPED_ALONE)
    except BaseException as error:
        faults.append(error)
def reading():
    while "monai" not in sys.modules:
        time.sleep(0.001)
    try:
        with plain_tensors():
            pass
        sheared = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        resample_by_monai(np.zeros((1, 4, 4, 4), np.float32), affine=sheared, spacing=(1, 1, 1), mode="bilinear")
    except BaseException as error:
        faults.append(error)
threads = [threading.Thread(target=each) for each in (importing, reading)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not faults, faults
"""


def test_a_volume_is_read_while_the_network_is_imported():
    process = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr


def resampled():
    resample_by_monai(np.zeros((1, 2, 2, 2), np.float32), affine=np.eye(4), spacing=(1, 1, 1), mode="nearest")


def resolved():
    resolve_target("sct.models.decoders.thin.Thin", key="decoder", trust=SHIPPED_ALONE)


@pytest.mark.parametrize("work", [resampled, resolved])
def test_imports_wait_for_each_other(work):
    done = Event()

    def run():
        work()
        done.set()

    thread = Thread(target=run)
    with IMPORTING:
        thread.start()
        assert not done.wait(0.2)
    assert done.wait(60)
    thread.join()
