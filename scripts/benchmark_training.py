"""Compares the cost of training steps: time, memory of the activations, and time spent waiting for the loader.

    python scripts/benchmark_training.py                # fast STP against dense UNETR in fp32, a window of 96^3
    python scripts/benchmark_training.py --device cuda --batch 8
    python scripts/benchmark_training.py --contestants a="+experiment=btcv_stp_mta" b="+experiment=btcv_dense_unetr"

Contestants take turns, with a fresh process for each contestant and round. A step is the trainer's step: forward, loss,
backward, checks of gradients, and optimizer. Memory of the activations is the peak memory of a step minus the memory
before it (weights, optimizer state and the program; gradients are freed then); on a GPU it is GPU memory. Ratios are
relative to the first contestant.

The loader: steps with batches from the data set's loader (phantoms, or --data with a folder in BTCV's layout), in turn
with steps on the same windows from memory. Stall is the share of the first time that the second steps do not need. With
workers, it includes the processor time that the workers take.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean, median

import torch

from sct.config.check import build, to_dict
from sct.config.command import compose_config, pairs
from sct.data.cases import Batch
from sct.data.phantoms.phantom import PhantomSpec, write_phantoms
from sct.errors import UserError
from sct.profiling.timing import device_name, peak_memory_mb
from sct.runs import card
from sct.runtime import distributed
from sct.runtime.memory import tune_allocator
from sct.tasks.train import build_trainer
from sct.training.trainer import Trainer

CONTESTANTS = ("fast=+experiment=btcv_fast_stp", "dense_unetr=+experiment=btcv_dense_unetr trainer.precision=fp32")
PHANTOMS = PhantomSpec(
    num_train=4, num_val=1, num_test=1, shape=(200, 200, 110), voxel_size=(1.5, 1.5, 3.0), seed=0, lookalikes=False
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, metavar="NAME='OVERRIDE ...'")
    parser.add_argument("--batch", type=int, default=1, help="volumes in a step, one window from each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="timed steps in a round; their median counts")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--loader-steps", type=int, default=20, help="steps in a turn; 0: do not measure the loader")
    parser.add_argument("--loader-turns", type=int, default=5)
    parser.add_argument("--data", type=Path, help="volumes in BTCV's layout for the loader; phantoms if not given")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark_training"))
    parser.add_argument("--worker", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--overrides", nargs="+", default=[], help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def make_trainer(overrides: Sequence[str], *, device: str) -> Trainer:
    cfg = compose_config("train", overrides=list(overrides))
    data = build(cfg.data, key="data")
    return build_trainer(cfg, data=data, processes=distributed.join(device), config=to_dict(cfg))


def random_batch(trainer: Trainer) -> Batch:
    data = trainer.data
    size = data.batch_size * data.crops_per_volume
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, data.num_channels, *data.roi_size, generator=generator)
    label = torch.randint(data.num_classes, (size, *data.roi_size), generator=generator)
    if trainer.device.type == "cuda":
        # pinned, as the loader's batches are
        image, label = image.pin_memory(), label.pin_memory()
    return Batch(image=image, label=label, case=["noise"] * size)


def seconds_of(trainer: Trainer, batches: Iterable[Batch]) -> list[float]:
    """Seconds of each step, including the wait for its batch."""
    took, start = [], time.perf_counter()
    for batch in batches:
        trainer.train_step([batch])
        trainer.step += 1
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        now = time.perf_counter()
        took.append(now - start)
        start = now
    return took


def cost(options: argparse.Namespace) -> dict[str, float | None]:
    """For one contestant: seconds of a step, and MiB of its activations (None if the system does not report it)."""
    trainer = make_trainer(options.overrides, device=options.device)
    batch = random_batch(trainer)
    seconds = seconds_of(trainer, [batch] * (options.warmup + options.steps))[options.warmup :]
    return {"seconds": median(seconds), "activations_mb": activations_mb(trainer, batch)}


def activations_mb(trainer: Trainer, batch: Batch) -> float | None:
    """MiB that a step adds to the memory before it; None if the system does not report it."""
    trainer.optimizer.zero_grad(set_to_none=True)  # a step starts without gradients, and has few of them at its peak
    held = torch.cuda.memory_allocated(trainer.device) if trainer.device.type == "cuda" else 0
    peak = peak_memory_mb(lambda: trainer.train_step([batch]), trainer.device)
    return None if peak is None else peak - held / 2**20


def stall(options: argparse.Namespace) -> dict[str, float]:
    """For one contestant: mean seconds of a step with the loader and without it, on the same windows in turn.

    Steps on different windows take different times, so both means must use the same windows.
    """
    trainer = make_trainer(options.overrides, device=options.device)
    count = options.loader_steps
    loader = iter(trainer.data.train_loader(seed=0, start_step=0, num_steps=count * options.loader_turns + 1))
    seconds_of(trainer, [next(loader)] * options.warmup)
    fed, alone = [], []
    for _ in range(options.loader_turns):
        held: list[Batch] = []
        fed += seconds_of(trainer, recorded(islice(loader, count), held))
        alone += seconds_of(trainer, held)
    return {"fed": mean(fed), "alone": mean(alone), "stall": 1 - sum(alone) / sum(fed)}


def recorded(batches: Iterable[Batch], held: list[Batch]) -> Iterator[Batch]:
    """Yields the batches and appends them to `held`."""
    for batch in batches:
        held.append(batch)
        yield batch


WORK = {"cost": cost, "stall": stall}


def in_fresh_process(kind: str, overrides: Sequence[str], options: argparse.Namespace) -> dict[str, float]:
    line = [sys.executable, __file__, "--worker", kind, "--warmup", options.warmup, "--steps", options.steps]
    line += [
        "--device",
        options.device,
        "--loader-steps",
        options.loader_steps,
        "--loader-turns",
        options.loader_turns,
        "--overrides",
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run([str(word) for word in line], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def phantoms(folder: Path) -> Path:
    write_phantoms(folder, spec=PHANTOMS)
    return folder


def table(costs: dict[str, list[dict[str, float]]]) -> str:
    """Medians over the rounds; ratios of time within each round, since other load affects a whole round."""
    head = ["contestant", "seconds a step", "activations MB", "times the first", "range", "memory, times the first"]
    lines, first = [head, ["---"] * len(head)], next(iter(costs.values()))
    for name, rounds in costs.items():
        ratios = [result["seconds"] / baseline["seconds"] for result, baseline in zip(rounds, first, strict=True)]
        memory, first_memory = (middle(results, "activations_mb") for results in (rounds, first))
        lines.append([
            name, f"{middle(rounds, 'seconds'):.3f}", f"{memory:.0f}", f"{median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}", f"{memory / first_memory:.2f}",
        ])  # fmt: skip
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def middle(rounds: Sequence[dict[str, float]], key: str) -> float:
    """The median of a number over the rounds; NaN if a round does not have it."""
    values = [result[key] for result in rounds]
    return float("nan") if None in values else median(values)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    if options.worker:
        tune_allocator()  # as the commands do
        print(json.dumps(WORK[options.worker](options)))
        return
    shared = [f"data.batch_size={options.batch}", "data.crops_per_volume=1", "data.split=null"]
    try:
        named = pairs(options.contestants, option="--contestants")
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    contestants = {name: [*value.split(), *shared] for name, value in named.items()}
    options.output.mkdir(parents=True, exist_ok=True)
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, overrides in contestants.items():
            costs[name].append(in_fresh_process("cost", overrides, options))
    record = {
        "environment": {"device": device_name(distributed.pick_device(options.device)), "versions": card.versions()},
        "settings": {key: str(value) for key, value in vars(options).items() if key not in ("worker", "overrides")},
        "costs": costs,
    }
    text = table(costs)
    if options.loader_steps:
        name, overrides = next(iter(contestants.items()))
        root = options.data or phantoms(options.output / "phantoms")
        record["loader"] = loader = in_fresh_process("stall", [*overrides, f"data.root={root}"], options)
        text += f"\n{name}: {loader['fed']:.3f} s a step with the loader, {loader['alone']:.3f} s without: "
        text += f"stall {100 * loader['stall']:.1f} %\n"
    (options.output / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    (options.output / "training.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
