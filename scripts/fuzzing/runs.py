"""What runs leave behind: checkpoints, cards, manifests of exports, saved configs, and lines of metrics.jsonl."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzzing.damage import PLAIN, damaged
from fuzzing.descriptions import TEXTS, text_of
from fuzzing.kind import Change, Kind, drawn, place
from sct.exporting.manifest import read_manifest
from sct.runs.card import read_card
from sct.runs.folder import saved_config
from sct.runtime import checkpoint
from sct.training.loggers import cut_after

BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
)
YAMLS = [
    BOMB,
    b"!!python/object/apply:os.system ['true']",
    b"a: ${oc.env:HOME}\n",
    b"\t- x",
    b"a: 1\na: 2\n",
    b"- 1\n",
    b"",
]


def draw(rng: np.random.Generator, *, kind: str) -> tuple[dict, list[Change]]:
    found: list[Change] = []
    for _ in range(drawn(rng, [0, 1, 1, 1, 2])):
        names = {"checkpoint": PLAIN, "config": [*PLAIN, "yaml"], "metrics": PLAIN}.get(
            kind, ["set", "set", "drop", "add", "text", drawn(rng, PLAIN)]
        )
        what = drawn(rng, names)
        value: Any = place(rng)
        if what in PLAIN:
            value = int(rng.integers(1, 256))
        elif what == "text":
            value = drawn(rng, TEXTS)
        found.append((what, place(rng), value))
    return {"kind": kind, "seed": place(rng)}, found


def judge_checkpoint(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    """Weights that are read are those that were written."""
    weights = {"a.weight": torch.arange(60.0).reshape(6, 10), "b": torch.ones(3)}
    state = {"format": checkpoint.FORMAT, "model": weights, "step": 7, "config": {"name": "x"}}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = folder / "step_00000007.pt"
    path.write_bytes(damaged(buffer.getvalue(), changes))
    found = checkpoint.load(path)
    same = found["model"].keys() == weights.keys() and all(
        torch.equal(found["model"][n], w) for n, w in weights.items()
    )
    return [] if same and found["step"] == 7 else ["other weights or steps"]


def judge_card(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    content = {"format": 1, "command": ["python", "-m", "sct.train"], "config": {"name": "x", "data": {"root": "y"}}}
    content |= {"processes": 1, "split": {"train": ["a"], "hash": "0"}, "versions": {"sct": "1"}}
    (folder / "card.json").write_bytes(text_of(content, changes))
    return ["no card"] * (not isinstance(read_card(folder / "card.json"), dict))


def judge_manifest(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    content = {"format": "onnx", "roi_size": [8, 8, 8], "channels": 1, "batch": 1, "precision": "fp32", "inputs": {}}
    content |= {"outputs": {}, "labels": ["background", "a"], "channels_out": ["background", "a"], "overlapping": False}
    content |= {"config": {"name": "x"}, "weights": "0", "checkpoint": "best.pt", "step": 1, "card": None}
    content |= {"versions": {}, "check": {}, "layout": 1, "postprocessing": {}}
    (folder / "export.json").write_bytes(text_of(content, changes))
    found = read_manifest(folder)
    return ["a manifest of wrong types"] * (not isinstance(found.roi_size, list) or not isinstance(found.config, dict))


def judge_config(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    data = b"name: x\nencoder:\n  _target_: sct.models.encoder.ViTEncoder\n  dim: 24\ndata:\n  root: somewhere\n"
    for what, at, _ in changes:
        data = (
            data + YAMLS[at % len(YAMLS)]
            if what == "yaml" and at % 2
            else YAMLS[at % len(YAMLS)]
            if what == "yaml"
            else data
        )
    (folder / "config.yaml").write_bytes(damaged(data, changes))
    return ["no config"] * (not isinstance(saved_config(folder), dict))


def judge_metrics(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    """Whole lines stay, whatever happened to the others."""
    lines = [json.dumps({"step": step, "train/loss": 1 / step}) for step in range(1, 9)]
    path = folder / "metrics.jsonl"
    path.write_bytes(damaged("".join(line + "\n" for line in lines).encode(), changes))
    # a last line without an end is one that was not written whole
    *ended, _ = path.read_bytes().decode("utf-8", "replace").split("\n")
    before = set(ended) & set(lines)
    cut_after(path, step=8)
    after = path.read_text().splitlines()
    return ["good lines are lost"] * (not before <= set(after))


JUDGES = {"checkpoint": judge_checkpoint, "card": judge_card, "manifest": judge_manifest, "config": judge_config}
JUDGES |= {"metrics": judge_metrics}
KINDS = {kind: Kind(partial(draw, kind=kind), judge) for kind, judge in JUDGES.items()}
