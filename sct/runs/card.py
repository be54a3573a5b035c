"""Result cards: everything that is needed to repeat a run and to check that its result is the same."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sct.data.cases import Case
from sct.data.module import SegmentationData
from sct.data.splits import SPLITS
from sct.errors import UserError
from sct.profiling.timing import device_name
from sct.runtime.files import write_text
from sct.runtime.migration import card_of_today
from sct.runtime.plain import plain_config, read_json
from sct.runtime.precision import NumberFormat
from sct.runtime.version import __version__

FORMAT = 1
FILE = "card.json"
# packages whose versions can change a result
PACKAGES = ("torch", "monai", "numpy", "scipy", "nibabel", "pillow", "hydra-core", "omegaconf")


def run_card(
    config: Mapping[str, Any],
    *,
    overrides: Sequence[str],
    num_processes: int,
    first: Mapping[str, str] | None,
    data: SegmentationData,
    device: torch.device,
    chosen: NumberFormat,
) -> dict[str, Any]:
    """The card of a training: command, config, processes, first weights and circumstances, all known before its start.

    first: digests of the weights before the first step; `init`, `pretrained` and a teacher change them.
    """
    return {
        "format": FORMAT,
        "command": ["python", "-m", "sct.train", *overrides],
        "config": dict(config),
        "processes": num_processes,
        "first_weights": first,
        **circumstances(data, device=device, chosen=chosen),
    }


def result_card(
    training: Mapping[str, Any] | None,
    *,
    evaluation: Mapping[str, Any],
    weights: str,
    summary: Mapping[str, Any],
    data: SegmentationData,
    device: torch.device,
    chosen: NumberFormat,
    postprocessing: Mapping[str, Any],
    look: Mapping[str, Any],
) -> dict[str, Any]:
    """The card of an evaluation: its settings and circumstances, digest of the weights, scores, the training's card.

    postprocessing: steps for label maps, by class; look: how the first look was used, empty: not
    """
    return {
        "format": FORMAT,
        "evaluation": dict(evaluation),
        "postprocessing": dict(postprocessing),
        "look": dict(look),
        "weights": weights,
        "scores": dict(summary),
        **circumstances(data, device=device, chosen=chosen),
        "training": training,
    }


def circumstances(data: SegmentationData, *, device: torch.device, chosen: NumberFormat) -> dict[str, Any]:
    """Current cases, versions, commit, hardware and number format."""
    cases = {split: [case.name for case in data.cases(split)] for split in SPLITS}
    return {
        "split": {**cases, "hash": digest(cases), "files": files_digest(data)},
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(device),
        "dtype": str(chosen.dtype).removeprefix("torch."),
        "dtype_reason": chosen.reason,
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    write_text(folder / FILE, json.dumps(card, indent=1) + "\n")


def read_card(path: Path) -> dict[str, Any]:
    """Reads a card; `path` is the card or its folder. UserError if it does not exist or has another format."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} does not exist: cards are written by sct.train, and with scores by sct.eval.")
    card = read_json(file, remedy="Take the original card.")
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError(f"{file} is no result card of format {FORMAT}.")
    check_plain(card, ("config",), file=file)
    today = card_of_today(card)
    check_plain(today, ("evaluation",), file=file)
    return today


def check_plain(card: Mapping[str, Any], names: Sequence[str], *, file: Path) -> None:
    """UserError where the named settings, of a card or of the training on it, are no plain values for OmegaConf."""
    for of in (card, card.get("training")):
        if of is not None and not (isinstance(of, Mapping) and isinstance(of.get("evaluation", {}), Mapping)):
            raise UserError(f"{file}: its training or evaluation is no mapping. Take the original card.")
        for name in names:
            if of is not None and name in of:
                plain_config(of[name], place=file)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """A digest of weights; it does not depend on their device."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def files_digest(data: SegmentationData) -> str:
    """A digest of the names of cases and the sizes of their files; the contents are not read."""
    return digest([sizes(case, data=data) for split in SPLITS for case in data.cases(split)])


def has_recorded_files(card: Mapping[str, Any], cases: Sequence[Case], *, data: SegmentationData) -> bool:
    """Whether `cases` are those on a training's card, with files of the same sizes: its data set, maybe elsewhere."""
    # a split file may name some cases alone; what is drawn is drawn of all
    left_out = any(card["config"]["data"].get(key) for key in ("split", "exclude"))
    by_name = {case.name: case for case in cases}
    names = [name for split in SPLITS for name in card["split"][split]]
    if not (set(names) <= by_name.keys() if left_out else set(names) == by_name.keys()):
        return False
    try:
        return digest([sizes(by_name[name], data=data) for name in names]) == card["split"].get("files")
    except OSError:
        return False


def sizes(case: Case, *, data: SegmentationData) -> list[Any]:
    """The name of a case and the sizes of its files."""
    return [case.name, [path.stat().st_size for path in data.format.files_of(case)]]


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """The versions of sct, of Python, of `PACKAGES` and of the packages `more`."""
    numbers = {"sct": __version__, "python": platform.python_version()}
    for package in (*PACKAGES, *more):
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            numbers[package] = "not installed"
    return numbers


def commit() -> dict[str, Any]:
    """The commit of the running source and whether the source was changed since; empty without a git checkout."""
    try:
        name, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", "sct", "configs")
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"id": name, "changed": bool(changes)}


def git(*arguments: str) -> str:
    command = ["git", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def hardware(device: torch.device) -> dict[str, Any]:
    return {"device": device_name(device), "threads": torch.get_num_threads(), "machine": platform.machine()}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, key: str = "") -> list[str]:
    """Lines with each dotted key at which two cards differ, and both values; `theirs` is the recorded card."""
    lines = []
    for name in {**theirs, **ours}:
        path, mine, other = f"{key}{name}", ours.get(name), theirs.get(name)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            lines += differences(mine, other, key=f"{path}.")
        elif mine != other:
            lines.append(f"{path}: {mine}, on the card {other}")
    return lines
