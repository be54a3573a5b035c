"""A short version of `scripts/kill_commands.py`: commands that faults have ended write what undisturbed ones do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_commands.py"


@pytest.mark.long
def test_commands_that_were_ended_write_what_undisturbed_ones_do():
    command = [sys.executable, str(SCRIPT), "--kills", "12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all as undisturbed in the end" in result.stdout
