"""Commands that several processes run together, each for its own part of the cases."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from sct.runtime.distributed import meet
from sct.runtime.shards import Shard, parse_shard, shard_of_process

# until the slowest of the processes has done its part
LONGEST = timedelta(days=30)


def shard_of_command(text: str | None) -> Shard | None:
    """The part that `shard=i/n` names, or else that of a process of torchrun, srun or a Slurm array; None: all.

    The jobs of a sweep are different commands, whoever has started them: each does all of its own.
    """
    if text is not None:
        return parse_shard(text)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return None
    return shard_of_process(os.environ)


@contextmanager
def all_end_together() -> Iterator[None]:
    """Under torchrun, which ends all processes when the first one fails: none ends before all have done their part."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    store, rank, size = meet(int(os.environ["WORLD_SIZE"]))
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    store.set(f"part_{rank}_is_done", "yes")
    store.wait([f"part_{other}_is_done" for other in range(size)], LONGEST)
    if failure is not None:
        raise failure
