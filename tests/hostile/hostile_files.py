"""Hostile copies of what a run leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

LEAK = "${oc.env:SCT_SECRET}"


def change_config(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the config in every checkpoint of a run and in its config.yaml."""
    for path in (run / "checkpoints").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        change(state["config"])
        torch.save(state, path)
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    change(config)
    OmegaConf.save(OmegaConf.create(config), run / "config.yaml")


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key."""
    *parents, name = key.split(".")
    node = config
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[name] = value


def changed_card(run: Path, key: str, value: object) -> Path:
    """The card of an evaluation with another value at a dotted key."""
    path = run / "eval/test/card.json"
    card = json.loads(path.read_text())
    put(card, key, value)
    path.write_text(json.dumps(card))
    return path
