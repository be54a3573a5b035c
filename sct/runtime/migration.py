"""Translates settings that earlier versions wrote: used wherever a config, its overrides or a card are read.

* Before `trainer.precision=auto` there was `trainer.speed`: `fast` means auto, `safe` means the format in `precision`.
* Data sets and optimizers were in other modules, see `MOVED`.
* The decoder `patchwise` was called `light`.
* There was no first look (`look`).
* Parts of the loss were logged as `train/dice` and so on; the pixel loss was not logged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# modules that a `_target_` may name: earlier name -> current name
MOVED = {
    "sct.data.btcv": "sct.data.sets.btcv",
    "sct.data.isic": "sct.data.sets.isic",
    "sct.data.msd": "sct.data.sets.msd",
    "sct.data.synapse": "sct.data.sets.synapse",
    "sct.data.phantom": "sct.data.phantoms.phantom",
    "sct.data.phantom_brats": "sct.data.phantoms.brats",
    "sct.data.phantom_isic": "sct.data.phantoms.isic",
    "sct.data.phantom_synapse": "sct.data.phantoms.synapse",
    "sct.optim": "sct.training.optim",
}
RENAMED = {"sct.models.decoders.light.Light": "sct.models.decoders.patchwise.Patchwise"}
# choices of config groups: earlier name -> current name
CHOICES = {"decoder=light": "decoder=patchwise"}


# how the file of the inferer `fast` says it, which earlier cards have in place of the value
SKIP_BELOW = "${oc.select:data.crop_above,null}"
# names below `train/` that are not parts of the loss
NO_LOSSES = ("train/loss", "train/lr", "train/grad_norm", "train/grad_norm_reducer")


def config_of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run with current settings."""
    today = {key: targets_of_today(value) for key, value in config.items()}
    if "encoder" in today:
        today.setdefault("look", None)
    trainer = config.get("trainer")
    if not isinstance(trainer, Mapping) or "speed" not in trainer:
        return today
    trainer = dict(trainer)
    if trainer.pop("speed") == "fast":
        trainer["precision"] = "auto"
    return {**today, "trainer": trainer}


def targets_of_today(node: Any) -> Any:
    """A node of a config in which every `_target_` has its current path."""
    if isinstance(node, Mapping):
        return {
            key: target_of_today(value) if key == "_target_" else targets_of_today(value) for key, value in node.items()
        }
    return [targets_of_today(item) for item in node] if isinstance(node, list) else node


def target_of_today(path: Any) -> Any:
    """The current path of a `_target_`; what is no text is left to the check of the config."""
    if not isinstance(path, str):
        return path
    module, _, name = path.rpartition(".")
    if path in RENAMED:
        return RENAMED[path]
    return f"{MOVED[module]}.{name}" if module in MOVED else path


def overrides_of_today(overrides: Sequence[str]) -> list[str]:
    """The overrides of a run's command line with current settings."""
    if "trainer.speed=fast" in overrides:
        overrides = [
            *(override for override in overrides if not override.startswith("trainer.precision=")),
            "trainer.precision=auto",
        ]
    overrides = [CHOICES.get(override, override) for override in overrides if not override.startswith("trainer.speed=")]
    pairs = [override.partition("=") for override in overrides]
    return [
        f"{key}={target_of_today(value)}" if key.endswith("._target_") else key + sign + value
        for key, sign, value in pairs
    ]


def card_of_today(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a training or of an evaluation with current settings."""
    today = dict(card)
    if "config" in card:
        today["config"] = config_of_today(card["config"])
    if "evaluation" in card:
        today["evaluation"] = evaluation_of_today(card["evaluation"], training=card.get("training"))
    if card.get("training"):
        today["training"] = card_of_today(card["training"])
    return today


def evaluation_of_today(settings: Mapping[str, Any], *, training: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of an evaluation with current names.

    If the evaluation set no `precision`, its `speed` decides: `fast` means auto, `safe` the precision of the training.
    training: the card of the training as it was written.
    """
    today = {key: value for key, value in settings.items() if key != "speed"}
    if today.get("precision") is None and settings.get("speed") is not None:
        pinned = training["config"]["trainer"]["precision"] if training else None
        today["precision"] = "auto" if settings["speed"] == "fast" else pinned
    inferer = today.get("inferer")
    if isinstance(inferer, Mapping) and inferer.get("skip_below") == SKIP_BELOW and training:
        today["inferer"] = {**inferer, "skip_below": training["config"]["data"].get("crop_above")}
    return today


def metrics_of_today(row: Mapping[str, Any], *, pixel: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl with current names; the pixel loss is computed from its parts where it is missing.

    pixel: the section loss.pixel of the config, with the weights of the parts.
    """
    today = {}
    for name, value in row.items():
        is_part = name.startswith("train/") and name not in NO_LOSSES and not name.startswith("train/loss_")
        today[f"train/loss_{name.removeprefix('train/')}" if is_part else name] = value
    weights = {f"train/loss_{key.removesuffix('_weight')}": pixel[key] for key in pixel if key.endswith("_weight")}
    if "train/loss_pixel" not in today and weights and weights.keys() <= today.keys():
        today["train/loss_pixel"] = sum(weight * today[name] for name, weight in weights.items())
    return today
