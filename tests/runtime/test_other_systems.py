"""Windows and macOS, as far as Linux can tell: what the package asks of Unix, and where it does without."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib

from sct.runtime import resident

DRIVER = Path(__file__).with_name("other_system.py")
SOURCES = Path(__file__).parents[2] / "sct"


def test_every_module_is_imported_and_predicts(finished_run, workplace, tmp_path):
    image = next((workplace / "data").rglob("img0001.nii.gz"))
    places = [f"ckpt={finished_run}", f"input={image}", f"output={tmp_path}"]
    result = subprocess.run(
        [sys.executable, str(DRIVER), *places],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    files = (path for path in SOURCES.rglob("*.py") if path.parent.name != "trainers")
    names = {".".join(path.relative_to(SOURCES.parent).with_suffix("").parts) for path in files}
    imported = result.stdout.split()
    assert all(imported.count(name) == 2 for name in names if not name.endswith("__init__"))
    (written,) = tmp_path.iterdir()
    assert nib.load(written).shape == nib.load(image).shape


def test_peak_memory_where_the_system_tells_it(monkeypatch):
    before = resident.reset_peak()
    peak = resident.peak_resident_mb()
    if before is not None:
        assert 10 < 0.9 * before < peak < 1.5 * before
    # as on macOS
    monkeypatch.setattr(resident.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(resident, "Path", lambda path: Path("nowhere") / Path(path).name)
    assert resident.reset_peak() is None
    assert resident.peak_resident_mb() is None


def test_peak_memory_on_windows(monkeypatch):
    class Process:
        def memory_info(self):
            return type("pmem", (), {"rss": 2**20, "peak_wset": 3 * 2**20})

    monkeypatch.setattr(resident.psutil, "Process", Process)
    assert (resident.resident_mb(), resident.peak_resident_mb()) == (1, 3)
