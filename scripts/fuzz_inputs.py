"""Mutates every kind of file that sct reads, reads it by sct, and judges the outcome against a reading of its own.

    python scripts/fuzz_inputs.py --kinds nifti pair --cases 20000 --first 0
    python scripts/fuzz_inputs.py --replay nifti:1016 --minimise     # one case again; its files stay in OUT/case

The exit code is 1 where something is found. docs/explanation/damaged-files.md has the figures.
"""

import argparse
import logging
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from fuzzing.kinds import KINDS
from fuzzing.runner import GOOD, campaign, drawn_case, limit_memory, minimised, outcome_of


def quiet() -> None:
    """What libraries warn of is no outcome."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    np.seterr(all="ignore")
    torch.set_num_threads(1)


def run(kinds: list[str], *, first: int, cases: int, out: Path) -> int:
    """Campaigns of several kinds with a table of the outcomes; returns how many cases found a defect."""
    defects = 0
    lines = []
    for name in kinds:
        began = time.perf_counter()
        found = campaign(name, KINDS[name], first=first, cases=cases, out=out)
        counts = {outcome: len(seeds) for outcome, seeds in found.items()}
        good = [counts.pop(outcome, 0) for outcome in GOOD]
        defects += sum(counts.values())
        seconds = time.perf_counter() - began
        lines.append(f"{name:12s} {cases:8d} {good[0]:8d} {good[1]:8d} {sum(counts.values()):8d} {seconds:8.0f}")
        for outcome, count in sorted(counts.items(), key=lambda item: -item[1]):
            print(f"{count:7d}  {outcome}   [{name}:{found[outcome][0]}]", flush=True)
        print(lines[-1], flush=True)
    print(f"\n{'kind':12s} {'cases':>8s} {'right':>8s} {'refused':>8s} {'defects':>8s} {'seconds':>8s}")
    print(*lines, f"seeds {first} to {first + cases - 1} of every kind", sep="\n")
    return defects


def replay(name: str, seed: int, *, minimise: bool, out: Path) -> int:
    """One case again; returns whether it found a defect."""
    kind, folder = KINDS[name], out / "case"
    base, changes = drawn_case(name, kind, seed)
    limit_memory()
    outcome_of(kind, folder, base, [])
    outcome = outcome_of(kind, folder, base, changes)
    if minimise:
        outcome, changes = minimised(kind, folder, base, changes)
    print(outcome, base, *changes, f"files in {folder}", sep="\n")
    return outcome not in GOOD


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--cases", type=int, default=1000, help="of every kind")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--out", type=Path, default=Path("/dev/shm/sct-fuzz"), help="folder for the files of a case")
    parser.add_argument("--replay", metavar="KIND:SEED")
    parser.add_argument("--minimise", action="store_true", help="with as few changes as show the same")
    options = parser.parse_args(argv)
    quiet()
    if options.replay:
        name, seed = options.replay.split(":")
        return int(replay(name, int(seed), minimise=options.minimise, out=options.out))
    return int(run(options.kinds, first=options.first, cases=options.cases, out=options.out) > 0)


if __name__ == "__main__":
    sys.exit(main())
