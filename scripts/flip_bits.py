"""Flips single bits in checkpoints, cached volumes and exports, and shows that each is noticed or without effect.

    python scripts/flip_bits.py --flips 1000

Trains for two steps, exports, and then reads every changed file as the commands do: a checkpoint as it resumes and
predicts, a cached volume as it trains, an export as it predicts. Right is an error to the user, or weights, voxels and
settings equal to the original's; a damaged volume of the cache must be prepared again.
"""

import argparse
import collections
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults.damages import flipped
from omegaconf import OmegaConf

from sct.config.check import build
from sct.config.command import compose_config
from sct.data.cases import Case
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.exporting import FORMATS
from sct.exporting.manifest import check_files, read_manifest
from sct.runtime import checkpoint
from sct.tasks.export import export
from sct.tasks.train import train

# a small graph, soon written
SETTINGS = (
    *("+experiment=demo", "+debug=smoke", "encoder=dense", "encoder.depth=1", "encoder.taps=0", "completion=scatter"),
    *("decoder=fcn", "trainer.max_steps=2", "trainer.tensorboard=false", "data.cache=disk"),
)


@dataclass
class Target:
    """files: in which bits are flipped; read: what the commands take from them, to be compared with `same`."""

    name: str
    files: list[Path]
    read: Callable[[], Any]
    same: Callable[[Any, Any], bool]
    counts: collections.Counter = field(default_factory=collections.Counter)


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are equal bit for bit."""
    if isinstance(one, torch.Tensor | np.ndarray):
        return type(one) is type(other) and one.dtype == other.dtype and bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def make(folder: Path) -> Path:
    """A run of two steps with an export."""
    places = [f"paths.data={folder}/data", f"paths.cache={folder}/cache", f"run_dir={folder}/run"]
    train(compose_config("train", overrides=[*SETTINGS, *places]))
    export(compose_config("export", overrides=[f"ckpt={folder}/run", "format=torch"]))
    return folder / "run"


def prepared(config: dict[str, Any], case_name: str) -> Callable[[], Any]:
    """Reads a case as a training does, in a data set of its own, which has checked no volume yet."""

    def read() -> Any:
        data: SegmentationData = build(OmegaConf.create(config), key="data")
        case: Case = next(case for case in data.cases("train") if case.name == case_name)
        volume = asdict(data._volumes.get(case))
        return {name: np.array(value) if isinstance(value, np.memmap) else value for name, value in volume.items()}

    return read


def targets(folder: Path) -> list[Target]:
    """What is attacked, and how it is read."""
    run = make(folder)
    best, step = run / checkpoint.FOLDER / "best.pt", checkpoint.step_files(run)[0]
    old = folder / "old.pt"  # as earlier versions and other programs write it: no checksum of the whole
    torch.save(checkpoint.load(best), old)
    config = checkpoint.load(best)["config"]["data"]
    name = build(OmegaConf.create(config), key="data").cases("train")[0].name
    (volume,) = (folder / "cache" / "volumes").glob(f"{name}-*")
    exported = run / "export" / "torch"

    def read_export() -> Any:
        manifest = read_manifest(exported)
        check_files(manifest, folder=exported, needed=FORMATS["torch"].files)
        return asdict(manifest), (exported / "model.pt2").read_bytes()

    return [
        Target("checkpoint, best.pt", [best], lambda: checkpoint.load(best), same),
        Target("checkpoint, step_*.pt", [step], lambda: checkpoint.load(step), same),
        Target("checkpoint of an earlier version", [old], lambda: checkpoint.load(old), same),
        Target("cached volume", sorted(volume.iterdir()), prepared(config, name), same),
        Target("export", sorted(exported.iterdir()), read_export, same),
    ]


def attack(target: Target, original: Any, *, rng: random.Random) -> None:
    """Flips one bit, reads, counts what happens, and puts the file back."""
    path = rng.choice(target.files)
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, rng))
    try:
        found = target.read()
    except UserError:
        outcome = "noticed"
    else:
        outcome = "without effect" if target.same(found, original) else "WRONG"
        if target.name == "cached volume" and path.read_bytes() == whole:
            outcome = "made again"
    target.counts[outcome] += 1
    path.write_bytes(whole)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        attacked = targets(Path(temporary))
        originals = [target.read() for target in attacked]
        for flip in range(options.flips):
            number = flip % len(attacked)
            attack(attacked[number], originals[number], rng=rng)
    outcomes = ("noticed", "made again", "without effect", "WRONG")
    print("| file | flips | " + " | ".join(outcomes) + " |\n|---|---:" + "|---:" * len(outcomes) + "|")
    for target in attacked:
        counts = " | ".join(str(target.counts[outcome]) for outcome in outcomes)
        print(f"| {target.name} | {target.counts.total()} | {counts} |")
    return int(any(target.counts["WRONG"] for target in attacked))


if __name__ == "__main__":
    sys.exit(main())
