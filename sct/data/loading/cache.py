"""Preprocessed volumes kept in memory or on disk, with an estimate of the space before it is filled."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np
import psutil
import torch

from sct.data.cases import Case, Grid, window_shape
from sct.data.loading.transforms import Foreground, Prepared, Preprocess
from sct.errors import UserError
from sct.runtime.aside import aside
from sct.runtime.files import checksums, full_disk_told
from sct.runtime.progress import counted

logger = logging.getLogger(__name__)

KINDS = ("none", "memory", "disk")
_LAYOUT = 5  # raise when the stored files or the preprocessing code change their meaning
_SUMS = "sums.json"  # in a volume's folder: the checksum of every other file
_USABLE = 0.8  # share of the free memory or disk that a cache may take


def file_signature(path: Path) -> list:
    """Path, size and modification time: what decides whether a file is still the same."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def describe(thing: object) -> object:
    """A JSON-able description of a transform by class and settings, the same for the same configuration."""
    if isinstance(thing, str | int | float | bool | None):
        return thing
    if isinstance(thing, np.ndarray | torch.Tensor):
        return np.asarray(thing).tolist()
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, Iterable) and not hasattr(thing, "__dict__"):
        return [describe(item) for item in thing]
    if isinstance(thing, type) or (callable(thing) and hasattr(thing, "__qualname__")):
        return thing.__qualname__
    # The state of a random generator is no setting.
    settings = {key: describe(value) for key, value in sorted(getattr(thing, "__dict__", {}).items()) if key != "R"}
    return {"class": type(thing).__qualname__, **settings}


class VolumeCache:
    """Hands out prepared cases, computing each at most once when `kind` is memory or disk.

    Only cases named in `keep` are kept; others (files to predict) are computed every time.
    """

    def __init__(self, preprocess: Preprocess, *, kind: str, directory: Path, keep: Iterable[Case]) -> None:
        self.preprocess = preprocess
        self.kind = kind
        self.directory = directory / "volumes"
        self.keep = frozenset(keep)
        self._memory: dict[Case, Prepared] = {}
        # those that this process has found whole, or written
        self._whole: set[Path] = set()
        self._settings = json.dumps([_LAYOUT, describe(preprocess)], sort_keys=True)

    def get(self, case: Case) -> Prepared:
        """The prepared case; from disk its arrays are read-only memory maps."""
        if self.kind == "none" or case not in self.keep:
            return self.preprocess(case)
        if self.kind == "memory":
            if case not in self._memory:
                self._memory[case] = self.preprocess(case)
            return self._memory[case]
        folder = self._folder(case)
        if folder not in self._whole:
            if folder.exists() and not _is_whole(folder):
                logger.warning("%s is damaged: the volume is prepared again", folder)
                _remove(folder)
            if not folder.exists():
                _write(self.preprocess(case), folder)
            self._whole.add(folder)
        return _read(folder)

    def fill(self, cases: Iterable[Case]) -> None:
        """Check that all kept cases fit, then compute `cases` into memory; the disk is filled as it is used.

        Worker processes share what is in memory before they start.
        """
        if self.kind == "none":
            return
        self._check_space()
        if self.kind == "memory":
            missing = [case for case in cases if case not in self._memory]
            logger.info("caching %d cases in memory", len(missing))
            for case in counted(missing, what="cached"):
                self.get(case)

    def estimate(self, case: Case) -> int:
        """Upper bound in bytes of one prepared case, from its header: image, label, a tenth of foreground (twice)."""
        grid = self.preprocess.file_format.read_grid(case.image)
        shape = self.preprocess.largest_shape(grid)
        voxels = int(np.prod(np.maximum(shape, window_shape(self.preprocess.roi_size, num_dims=len(shape)))))
        return int(voxels * (4 * grid.num_channels + 1 + 0.8))

    def _check_space(self) -> None:
        on_disk = self.kind == "disk"
        missing = [c for c in self.keep if not (self._folder(c).exists() if on_disk else c in self._memory)]
        need = sum(self.estimate(case) for case in missing)
        if on_disk:
            self.directory.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.directory).free
        else:
            # Every process of this machine fills its own.
            need *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            free = psutil.virtual_memory().available
        logger.info(
            "cache (%s): at most %.2f GB for %d cases, %.2f GB free",
            self.kind,
            need / 1e9,
            len(missing),
            free / 1e9,
        )
        if need > _USABLE * free:
            remedy = (
                f"Name a folder on a larger disk with data.cache_dir (now {self.directory.parent}), or set "
                "data.cache=none."
                if on_disk
                else "Set data.cache=disk (with data.cache_dir on a fast disk) or data.cache=none."
            )
            raise UserError(
                f"The data cache (data.cache={self.kind}) may need {need / 1e9:.1f} GB for {len(missing)} "
                f"cases, but only {free / 1e9:.1f} GB are free, of which it takes {_USABLE:.0%} at most. "
                f"{remedy}"
            )

    def _folder(self, case: Case) -> Path:
        files = self.preprocess.file_format.files_of(case)
        key = json.dumps([self._settings, [file_signature(path) for path in files]])
        return self.directory / f"{case.name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def _write(prepared: Prepared, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = prepared.source
    meta = {
        "affine": prepared.affine.tolist(),
        "source": {
            "shape": source.shape,
            "num_channels": source.num_channels,
            "affine": source.affine.tolist(),
            "unit": source.unit,
        },
    }
    with (
        aside(folder.parent) as temporary,
        full_disk_told(folder.parent),
    ):
        built = temporary / folder.name
        built.mkdir()
        arrays = {"image": prepared.image, "label": prepared.label}
        if prepared.foreground is not None:
            arrays |= {
                f"foreground_{field.name}": getattr(prepared.foreground, field.name) for field in fields(Foreground)
            }
        for name, array in arrays.items():
            if array is not None:
                np.save(built / f"{name}.npy", array)
        (built / "meta.json").write_text(json.dumps(meta))
        (built / _SUMS).write_text(json.dumps(checksums(built)))
        # Another process may have been first with the same content.
        with suppress(OSError):
            built.rename(folder)


def _is_whole(folder: Path) -> bool:
    """Whether all files of a volume are as they were written."""
    try:
        wanted = json.loads((folder / _SUMS).read_bytes())
        found = checksums(folder)
    except (OSError, ValueError):
        return False
    found.pop(_SUMS)
    return wanted == found


def _remove(folder: Path) -> None:
    """Removes a folder, also while another process does the same."""
    with aside(folder.parent) as temporary, suppress(OSError):
        folder.rename(temporary / folder.name)


def _read(folder: Path) -> Prepared:
    meta = json.loads((folder / "meta.json").read_text())
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    source, label = meta["source"], arrays.get("label")
    foreground = {field.name: arrays[f"foreground_{field.name}"] for field in fields(Foreground) if label is not None}
    return Prepared(
        image=arrays["image"],
        label=label,
        foreground=Foreground(**foreground) if foreground else None,
        affine=np.array(meta["affine"]),
        source=Grid(tuple(source["shape"]), source["num_channels"], np.array(source["affine"]), unit=source["unit"]),
    )
