"""The training loader: sample number n alone decides the case and every random draw.

Sample n is one visit of one volume. Step s of micro-batches m = 0..M-1 on rank r of W with batch size b reads
n = ((s M + m) W + r) b + 0..b-1, so that a resumed run, any number of workers, and W processes of batch b or
one process of batch W b all see the same samples in the same order.
"""

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from sct.data.cases import Batch, Case
from sct.data.loading.cache import VolumeCache
from sct.data.loading.transforms import TrainingCrops
from sct.data.loading.workers import PREFETCH, SHARED_MEMORY, Loading
from sct.runtime.signals import REQUEUE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepSampler:
    """The sample numbers of every micro-batch of steps `start_step` ... `start_step + num_steps - 1`."""

    start_step: int
    num_steps: int
    micro_batches: int
    rank: int
    world_size: int
    batch_size: int

    def __len__(self) -> int:
        return self.num_steps * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start_step * self.micro_batches
        for batch in range(first, first + len(self)):
            start = (batch * self.world_size + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))


def case_of_sample(sample: int, *, num_cases: int, seed: int) -> int:
    """Index of the case that sample number `sample` visits: a new permutation for each epoch."""
    epoch, place = divmod(sample, num_cases)
    return int(np.random.default_rng([seed, epoch]).permutation(num_cases)[place])


@dataclass(frozen=True)
class CropDataset(Dataset):
    """Maps a sample number to the crops of one volume."""

    cases: Sequence[Case]
    cache: VolumeCache
    crops: TrainingCrops
    seed: int

    def __getitem__(self, sample: int) -> list[dict]:
        case = self.cases[case_of_sample(sample, num_cases=len(self.cases), seed=self.seed)]
        crops = self.crops(self.cache.get(case), entropy=(self.seed, sample))
        return [{**crop, "case": case.name} for crop in crops]


def collate(samples: list[list[dict]]) -> Batch:
    """Stack the crops of several volumes."""
    crops = [crop for sample in samples for crop in sample]
    return Batch(
        image=torch.stack([crop["image"] for crop in crops]),
        label=torch.stack([crop["label"] for crop in crops]),
        case=[crop["case"] for crop in crops],
    )


def hand_over(samples: list[list[dict]], *, shared: bool) -> Batch | dict[str, Any]:
    """What a loading process sends of some volumes' crops: tensors in shared memory, or arrays through a pipe.

    Arrays also where shared memory has become full meanwhile: what fails later, on the way, is lost, and the training
    would wait for it for ever.
    """
    batch = collate(samples)
    if shared:
        try:
            batch["image"].share_memory_()
            batch["label"].share_memory_()
        except RuntimeError:
            shared = False
    return batch if shared else {**batch, "image": batch["image"].numpy(), "label": batch["label"].numpy()}


def _begin(worker_id: int) -> None:
    """One thread; signals that go to all processes of a terminal or a job are left to the training, which saves first.

    SIGTERM, which may also be the training's own, ends a worker half a minute later, if it is still there.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(30))
    if REQUEUE is not None:
        signal.signal(REQUEUE, signal.SIG_IGN)
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Errors of a loading process outside of loading, which the training gets itself; nothing once that has gone.

    The thread that hands tensors over meets a closed connection when the training was killed while it asked for one.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def make_loader(
    dataset: CropDataset, *, sampler: StepSampler, loading: Loading, device: torch.device
) -> Iterator[Batch]:
    """`sampler`'s micro-batches in order, the same for any way of loading; page-locked for a GPU."""
    parallel = loading.num_workers > 0
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=loading.num_workers,
        prefetch_factor=PREFETCH if parallel else None,
        collate_fn=partial(hand_over, shared=loading.shared) if parallel else collate,
        worker_init_fn=_begin,
        pin_memory=device.type == "cuda",
        # Its own generator: without one every start of the loader draws from the global one of the training.
        generator=torch.Generator().manual_seed(dataset.seed),
    )
    warned = not loading.shared
    batches = iter(loader)
    try:
        for batch in batches:
            through_pipe = isinstance(batch["image"], np.ndarray)
            if through_pipe and not warned:
                logger.warning("%s is full: batches come through pipes, which is slower", SHARED_MEMORY)
                warned = True
            image, label = torch.as_tensor(batch["image"]), torch.as_tensor(batch["label"])
            yield Batch(image=image, label=label, case=batch["case"])
    finally:
        # now: a traceback can keep them to the end of the process, which then waits for workers that wait for it
        if isinstance(batches, _MultiProcessingDataLoaderIter):
            batches._shutdown_workers()
