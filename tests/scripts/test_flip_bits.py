"""A short version of `scripts/flip_bits.py`: flipped bits are noticed; without the checks they are not."""

import sys
from pathlib import Path

import pytest

from sct.runtime import checkpoint

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import flip_bits


@pytest.mark.long
@pytest.mark.parametrize("checked", [True, False])
def test_flipped_bits_are_noticed(checked, monkeypatch, capsys):
    if not checked:
        monkeypatch.setattr(checkpoint, "fault_of", lambda path: None)
    assert flip_bits.main(["--flips", "50"]) == int(not checked)
    assert "| checkpoint, best.pt | 10 |" in capsys.readouterr().out
