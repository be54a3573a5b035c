"""Splits the time of one prediction into its stages, from NIfTI file to NIfTI file.

    python scripts/split_time.py ckpt=RUN input=CT.nii.gz output=/tmp/labels          # settings as for sct.predict
    python scripts/split_time.py ckpt=RUN input=CT.nii.gz output=/tmp/labels inferer=fast --repeats 5

The table has medians over the repeats, after a warm-up.

stage                          what it includes
reading                        from the file to the preprocessed image, checked
encoder, completion, decoder   all windows; if features are stitched, also the decoder's second stage for all chunks
stitching                      cutting out windows; weighting and adding logits or features
argmax                         the class of each voxel on the network's grid
regridding                     labels on the file's grid, without argmax
writing                        the label file

The stages run one after another here. sct.predict is faster: it reads and writes files while it computes, and computes
several batches at the same time on CPUs without tiles (inferer.workers).
"""

import argparse
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from omegaconf import DictConfig
from torch import Tensor

from sct.config.command import compose_config, open_overrides
from sct.data.cases import Case
from sct.data.check import load_new
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.inference import FastSlidingWindow, Inferer, Request, logits_for, source_grid
from sct.inference.inputs import find_inputs, label_paths
from sct.models.segmenter import Segmenter
from sct.runs.run import open_run
from sct.runtime.memory import keep_large_blocks, tune_allocator
from sct.runtime.precision import autocast

PARTS = ("encoder", "completion", "decoder")
STAGES = ("reading", *PARTS, "stitching", "argmax", "regridding", "writing")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="settings of sct.predict")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    return parser.parse_args(argv)


class Clock:
    """Measures the seconds of each stage."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = self.now()

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def start(self) -> None:
        self.last = self.now()

    def stop(self, stage: str) -> None:
        """Adds the time since the last start or stop to `stage`."""
        now = self.now()
        self.seconds[stage] += now - self.last
        self.last = now


def watch(network: Segmenter, clock: Clock, *, in_stages: bool) -> None:
    """Makes the parts of a network stop the clock; the time before the encoder is for cutting out windows.

    in_stages: the stages of the decoder are called one by one.
    """
    network.encoder.register_forward_pre_hook(lambda *_: clock.stop("stitching"))
    for part in PARTS:
        getattr(network, part).register_forward_hook(lambda *_, part=part: clock.stop(part))
    if in_stages:
        decoder = network.decoder
        # before the decoder's first stage the completion ran, before its second stage stitching
        for name, before in (("features", "completion"), ("voxels", "stitching")):
            setattr(decoder, name, timed(getattr(decoder, name), clock=clock, before=before))


def timed(stage: Callable[..., Tensor], *, clock: Clock, before: str) -> Callable[..., Tensor]:
    """A stage of the decoder that stops the clock; the time before it is added to the stage `before`."""

    def run(*inputs: Tensor) -> Tensor:
        clock.stop(before)
        result = stage(*inputs)
        clock.stop("decoder")
        return result

    return run


def alone(inferer: Inferer) -> Inferer:
    """The inferer with one batch at a time on all threads, so that each part can be timed."""
    return replace(inferer, workers=1) if isinstance(inferer, FastSlidingWindow) else inferer


def find_case(cfg: DictConfig, *, data: SegmentationData) -> Case:
    """The image to predict; UserError if there are several, or if its label map would overwrite it."""
    cases = find_inputs(Path(cfg.input), file_format=data.format)
    label_paths(cases, output=Path(cfg.output), file_format=data.format)
    if len(cases) > 1:
        raise UserError(f"input={cfg.input} holds {len(cases)} images; give one of them.")
    return cases[0]


def once(
    case: Case,
    *,
    network: Segmenter,
    data: SegmentationData,
    inferer: Inferer,
    dtype: torch.dtype,
    output: Path,
    clock: Clock,
) -> None:
    """Runs one prediction with the steps of `sct.predict`."""
    clock.start()
    volume = load_new(case, data=data)
    clock.stop("reading")
    grid = source_grid(volume, outputs=data.outputs)
    with torch.no_grad(), autocast(clock.device, dtype):
        chunks = logits_for(
            grid, network, volume.image, inferer, Request(data.roi_size, data.outputs.background, clock.device)
        )  # fmt: skip
        for chunk in chunks:
            clock.stop("stitching")
            data.outputs.decisions(chunk.logits)
            clock.stop("argmax")
            grid.add(chunk)
            clock.stop("regridding")
    data.format.save_labels(output / case.id, grid.labels, like=case.image)
    clock.stop("writing")
    # regridding also computed argmax, whose time is counted separately
    clock.seconds["regridding"] -= clock.seconds["argmax"]


def table(rounds: Sequence[dict[str, float]]) -> str:
    """Median seconds of all stages, and their shares."""
    middle = {stage: median(seconds.get(stage, 0.0) for seconds in rounds) for stage in STAGES}
    total = sum(middle.values())
    lines = [f"| {stage} | {seconds:.2f} | {100 * seconds / total:.1f} % |" for stage, seconds in middle.items()]
    return "\n".join(["| stage | seconds | share |", "|---|---:|---:|", *lines, f"| all | {total:.2f} | |"])


def split(options: argparse.Namespace) -> str:
    """The table for one image."""
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: give 1 or more.")
    if options.threads:
        torch.set_num_threads(options.threads)
    cfg = compose_config("predict", overrides=open_overrides(options.settings, groups=["inferer"]))
    run = open_run(
        cfg.ckpt,
        weights=cfg.weights,
        device=cfg.device,
        precision=cfg.precision,
        backend=cfg.backend,
        changes={"inferer": cfg.inferer},
    )
    data, device, network, dtype = run.data, run.device, run.model, run.number_format.dtype
    if not isinstance(network, Segmenter):
        raise UserError("An exported network has no parts to time: give the run itself as ckpt, without backend.")
    case = find_case(cfg, data=data)
    clock, inferer, rounds = Clock(device), alone(run.inferer), []
    request = Request(data.roi_size, data.outputs.background, device)
    in_stages = (
        isinstance(inferer, FastSlidingWindow)
        and not inferer.stages(network, request, num_dims=len(data.roi_size)).is_logits
    )
    watch(network, clock, in_stages=in_stages)
    for _ in range(1 + options.repeats):
        clock.seconds.clear()
        once(case, network=network, data=data, inferer=inferer, dtype=dtype, output=Path(cfg.output), clock=clock)
        rounds.append(dict(clock.seconds))
    return table(rounds[1:])


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tune_allocator()  # as the commands do
    keep_large_blocks()  # as sct.predict does for one image
    try:
        print(split(parse(argv)))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
