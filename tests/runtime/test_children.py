"""Commands that run as processes of their own end with the process that has started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sct.errors import UserError
from sct.runtime.children import call, each

# two at a time, each of a command that writes its number and waits, and a second one; a third item waits for its turn
PARENT = """
import sys
from pathlib import Path
from sct.runtime.children import call, each
from sct.runtime.signals import Interrupted

folder = Path(sys.argv[1])
child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(120)"

def run(name):
    for part in (name, name + "_after"):
        call([sys.executable, "-c", child, str(folder / part)], log=folder / f"{name}.log", environment={})

try:
    each(run, ["a", "b", "c"], jobs=2)
except Interrupted as interrupted:
    sys.exit(interrupted.status)
"""


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_commands_and_starts_no_other(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    files, limit = [tmp_path / name for name in ("a", "b")], time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < limit
        assert parent.poll() is None
        time.sleep(0.05)
    children = [int(file.read_text()) for file in files]
    assert all(map(alive, children))
    parent.send_signal(number)
    assert parent.wait(timeout=60) == 128 + number
    assert not any(map(alive, children))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.log", "b", "b.log"]


def test_output_goes_to_the_log_and_the_status_is_returned(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "import sys; print('told'); sys.exit(3)"]
    assert call(line, log=tmp_path / "log", environment=dict(os.environ)) == 3
    assert (tmp_path / "log").read_text() == "told\n"


def test_all_items_are_tried_before_an_error_is_raised() -> None:
    seen = []

    def function(item: int) -> int:
        seen.append(item)
        if item == 0:
            raise UserError("the first one")
        return item

    with pytest.raises(UserError, match="the first one"):
        each(function, range(4), jobs=1)
    assert seen == [0, 1, 2, 3]
    assert each(function, [3, 2, 1], jobs=2) == [3, 2, 1]
