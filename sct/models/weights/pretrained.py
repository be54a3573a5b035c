"""Pretrained 2-D weights: read from a file or with timm, checked, and loaded into the plain ViT."""

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sct.errors import UserError
from sct.models.encoder import ViTEncoder
from sct.models.weights.published import Report, map_weights
from sct.runtime import checkpoint
from sct.runtime.checkpoint import shortened
from sct.runtime.extras import install_command

logger = logging.getLogger(__name__)

TIMM = "timm:"
# keys of published files under which the weights are nested, and prefixes of the names of weights
NESTED = ("model", "state_dict", "teacher")
WRAPPERS = ("module", "model", "backbone")


def load_pretrained(encoder: ViTEncoder, source: str) -> None:
    """Loads published weights into an encoder; logs which weights are loaded, missing and not used.

    source: the value of the key `pretrained`: a file, or timm:NAME. UserError where the encoder is 3-D, or where the
    source has less than half of the transformer's parameters, which must be a mistake.
    """
    if len(encoder.grid) != 2:
        raise UserError(
            f"pretrained={source}: these are weights of 2-D networks, and the encoder is 3-D (images of "
            f"{list(encoder.spec.image_size)}). Set pretrained=null, or give a 2-D data.roi_size."
        )
    taken, report = map_weights(read_weights(source), encoder, source=source)
    if report.transformer_share < 0.5:
        raise UserError(
            f"pretrained={source} has only {report.transformer_share:.0%} of the transformer's parameters (missing: "
            f"{shortened(report.missing)}; not used: {shortened(report.unexpected + report.dropped)}). Give weights of "
            "a plain ViT under timm's names, with the encoder's dim and mlp_ratio and at least half of its depth."
        )
    encoder.load_state_dict(taken, strict=False)
    log_report(report, source=source)


def log_report(report: Report, *, source: str) -> None:
    logger.info(
        "pretrained=%s: %d of the encoder's %d tensors, %.1f %% of its parameters",
        source,
        len(report.taken),
        len(report.taken) + len(report.missing),
        100 * report.share,
    )
    for note in report.notes:
        logger.info("pretrained: %s", note)
    if report.dropped:
        logger.info(
            "%d weights of heads and other parts are not used: %s", len(report.dropped), shortened(report.dropped)
        )
    for state, names in (
        ("missing in the file are initialised anew", report.missing),
        ("in the file do not fit the encoder", report.unexpected),
    ):
        if names:
            logger.warning("%d weights %s: %s", len(names), state, shortened(names))


def read_weights(source: str) -> dict[str, Tensor]:
    """The tensors of a file or of a timm network; UserError where they can't be read."""
    if source.startswith(TIMM):
        return timm_weights(source)
    path = Path(source)
    if not path.is_file():
        raise UserError(f"pretrained={source} is not a file. Give a .pth, .pt or .safetensors file, or timm:NAME.")
    if path.suffix == ".safetensors":
        try:
            return find_weights(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"pretrained={source} can't be read ({error}). Take another file.") from error
    # some published files also hold the settings of their training, as a Namespace
    with torch.serialization.safe_globals([Namespace]):
        state = checkpoint.read(path)
    if not isinstance(state, dict):
        raise UserError(f"pretrained={source} holds a {type(state).__name__}, not a state dict. Take another file.")
    if state.get("format") == checkpoint.FORMAT:
        raise UserError(f"pretrained={source} is a checkpoint of sct; give it as init={source}.")
    return find_weights(state)


def timm_weights(source: str) -> dict[str, Tensor]:
    """Weights from the optional package timm, which downloads them or reads them from its cache."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision was built for another torch
        raise UserError(
            f"pretrained={source} needs the package timm, which can't be imported ({error}). Install it with  "
            f"{install_command('timm')}  beside the torchvision made for your torch, or give a file."
        ) from error
    try:
        return find_weights(timm.create_model(source.removeprefix(TIMM), pretrained=True).state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"pretrained={source}: timm can't give these weights ({error}). Correct the name, or give a file."
        ) from error


def find_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a published file, taken out of nested dicts, with plain names."""
    while (key := next((key for key in NESTED if isinstance(state.get(key), dict)), None)) is not None:
        state = state[key]
    return {plain_name(name): value for name, value in state.items() if isinstance(value, Tensor)}


def plain_name(name: str) -> str:
    """The name of a weight without the prefixes of `WRAPPERS`."""
    wrapper, _, rest = name.partition(".")
    return plain_name(rest) if wrapper in WRAPPERS else name
