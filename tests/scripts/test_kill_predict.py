"""A short version of `scripts/kill_predict.py`: killed and started again, each volume is predicted once."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_predict.py"


def test_killed_and_started_again_every_volume_is_done_once():
    command = [sys.executable, str(SCRIPT), "--volumes", "26", "--processes", "3", "--kills", "3", "--longest", "1.5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "each once, both broken ones listed" in result.stdout
