"""Which part of many cases a process takes: by `shard=i/n`, or as one of the processes that were started together."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from sct.errors import UserError
from sct.runtime.slurm import num_tasks, process_rank

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 0.

    source: what says so, for the log
    """

    index: int
    count: int
    source: str

    def holds(self, name: str) -> bool:
        """Whether a case is in this part: by a hash of its id, so that the same n always gives the same parts."""
        number = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
        return number % self.count == self.index

    def text(self) -> str:
        """What it is, and where it is from: a user may not have asked for it."""
        all_of_it = "" if self.source.startswith("shard=") else "; shard=0/1 takes all"
        return f"part {self.index}/{self.count} by {self.source}{all_of_it}"


def parse_shard(text: str) -> Shard:
    """`0/4` to `3/4`; UserError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not int(match[1]) < int(match[2]):
        count = match[2] if match is not None and int(match[2]) > 0 else "4"
        raise UserError(
            f"shard={text} must be i/n: part i of n, counted from 0. For n={count} these are shard=0/{count} to "
            f"shard={int(count) - 1}/{count}."
        )
    return Shard(int(match[1]), int(match[2]), f"shard={text}")


def shard_of_process(environment: Mapping[str, str]) -> Shard | None:
    """The part of one of several processes of torchrun, srun or a Slurm array, or of several in an array's tasks.

    None for a process alone. UserError for an array whose numbers do not tell which of its tasks this one is.
    """
    size = int(environment.get("WORLD_SIZE") or num_tasks(environment))
    rank = process_rank(environment) if size > 1 else 0
    place, places = place_in_array(environment)
    if size * places == 1:
        return None
    sources = ["SLURM_ARRAY_TASK_ID"] * (places > 1)
    sources += ["RANK" if "RANK" in environment else "SLURM_PROCID"] * (size > 1)
    return Shard(place * size + rank, places * size, " and ".join(sources))


def place_in_array(environment: Mapping[str, str]) -> tuple[int, int]:
    """The number of this task of a Slurm array, counted from 0, and how many tasks there are; (0, 1) without one."""
    count = int(environment.get("SLURM_ARRAY_TASK_COUNT") or 1)
    if count == 1 or "SLURM_ARRAY_TASK_ID" not in environment:
        return 0, 1
    task, first = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment.get("SLURM_ARRAY_TASK_MIN") or 0)
    last = int(environment.get("SLURM_ARRAY_TASK_MAX") or first + count - 1)
    step, rest = divmod(last - first, count - 1)
    if rest or step < 1 or (task - first) % step:
        raise UserError(
            f"The tasks of this Slurm array, {count} from {first} to {last}, are not evenly numbered, so that task "
            f"{task} does not know its part. Give shard=i/n, or submit the array as --array=0-{count - 1}."
        )
    return (task - first) // step, count


def local_rank(environment: Mapping[str, str]) -> int:
    """The number of this process among those of its machine, which tells its GPU; 0 where it is alone."""
    task = environment.get("SLURM_LOCALID", "0") if num_tasks(environment) > 1 else "0"
    return int(environment.get("LOCAL_RANK", task))


def part_of(items: Iterable[T], *, names: Iterable[str], shard: Shard | None) -> list[T]:
    """The items whose names a shard holds; all without one."""
    return [item for item, name in zip(items, names, strict=True) if shard is None or shard.holds(name)]
