"""A short version of `scripts/kill_resume.py`: killed trainings end as undisturbed ones do, to the bit."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_resume.py"


def test_killed_and_resumed_trainings_end_as_an_undisturbed_one(tmp_path):
    command = [sys.executable, str(SCRIPT), "--kills", "4", "--steps", "10", "--seed", "1", "--folder", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 kills" in result.stdout
    assert "0 with losses or differences" in result.stdout
