"""What earlier versions wrote, in today's settings: applied wherever a config, its overrides or a card are read.

Until `trainer.precision=auto` there was `trainer.speed`: `fast` is auto, and `safe` is the format named by `precision`.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def config_of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run."""
    trainer = dict(config.get("trainer", {}))
    if "speed" not in trainer:
        return dict(config)
    if trainer.pop("speed") == "fast":
        trainer["precision"] = "auto"
    return {**config, "trainer": trainer}


def overrides_of_today(overrides: Sequence[str]) -> list[str]:
    """What a run's command line asked for."""
    if "trainer.speed=fast" in overrides:
        overrides = [
            *(override for override in overrides if not override.startswith("trainer.precision=")),
            "trainer.precision=auto",
        ]
    return [override for override in overrides if not override.startswith("trainer.speed=")]


def card_of_today(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card of a training or of an evaluation."""
    today = dict(card)
    if "config" in card:
        today["config"] = config_of_today(card["config"])
    if "evaluation" in card:
        today["evaluation"] = evaluation_of_today(card["evaluation"], training=card.get("training"))
    if card.get("training"):
        today["training"] = card_of_today(card["training"])
    return today


def evaluation_of_today(settings: Mapping[str, Any], *, training: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of an evaluation: its own `speed` counted where it had no `precision`, before that of the training.

    training: the card as it was written.
    """
    today = {key: value for key, value in settings.items() if key != "speed"}
    if today.get("precision") is None and settings.get("speed") is not None:
        pinned = training["config"]["trainer"]["precision"] if training else None
        today["precision"] = "auto" if settings["speed"] == "fast" else pinned
    return today
