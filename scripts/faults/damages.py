"""Damage to files between two starts of a run, as failing disks and power cuts cause it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sct.runtime import checkpoint


@dataclass(frozen=True)
class Damage:
    """files: those of a run, whose folder is given, that it may hit; change: of the content; words: what is then told.

    What a start may not read has no words.
    """

    files: Callable[[Path], list[Path]]
    change: Callable[[bytes, random.Random], bytes]
    words: str = "damaged"


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One bit is another one."""
    bit = rng.randrange(8 * len(content))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """The end is lost."""
    return content[: rng.randrange(len(content))]


def zeroed(content: bytes, rng: random.Random) -> bytes:
    """A block was never written."""
    start = rng.randrange(len(content))
    return content[:start] + bytes(min(512, len(content) - start)) + content[start + 512 :]


def newest(run: Path) -> list[Path]:
    """The newest checkpoint if there is another one."""
    return checkpoint.step_files(run)[:-1]


def named(name: str) -> Callable[[Path], list[Path]]:
    def find(run: Path) -> list[Path]:
        return [run / name] if checkpoint.step_files(run) else []

    return find


def cached(run: Path) -> list[Path]:
    """Files of the disk cache of this run."""
    found = (run.parent / f"{run.name}_cache").rglob("volumes/*/*")
    return sorted(path for path in found if path.is_file())  # a killed process leaves folders of its own there


BEFORE = "going on from the checkpoint before"
DAMAGES = {
    "checkpoint flipped": Damage(newest, flipped, BEFORE),
    "checkpoint cut": Damage(newest, cut, BEFORE),
    "checkpoint zeroed": Damage(newest, zeroed, BEFORE),
    "cached volume flipped": Damage(cached, flipped, ""),
    "cached volume cut": Damage(cached, cut, ""),
    "config.yaml zeroed": Damage(named("config.yaml"), zeroed),
    "overrides.json cut": Damage(named("overrides.json"), cut, ""),
    "card.json cut": Damage(named("card.json"), cut, "made again"),
    "checked.json cut": Damage(lambda run: [run.parent / f"{run.name}_cache" / "checked.json"], cut),
}


def damage(run: Path, rng: random.Random) -> tuple[str, str]:
    """Does one damage to a run; its name, and what the next start must say of it. Empty where nothing can be hit."""
    name = rng.choice(list(DAMAGES))
    kind = DAMAGES[name]
    found = [path for path in kind.files(run) if path.exists() and path.stat().st_size > 1]
    if not found:
        return "", ""
    path = rng.choice(found)
    before = path.read_bytes()
    after = kind.change(before, rng)
    if after == before:
        return "", ""
    path.write_bytes(after)
    return name, kind.words
