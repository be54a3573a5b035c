"""MONAI Bundle: a folder with weights, metadata and a config that `python -m monai.bundle run` understands."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from sct.config.check import to_dict
from sct.exporting.base import Format, Source
from sct.exporting.bundle_text import license_text, readme
from sct.inference import Model
from sct.runtime.files import atomic, write_text
from sct.runtime.version import __version__

INFERENCE, METADATA, WEIGHTS = "configs/inference.json", "configs/metadata.json", "models/model.pt"
# letters that have a meaning in MONAI's configs
SPECIAL = frozenset("$@%#")
# MONAI's schema of metadata.json
SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"


class Bundle(Format):
    """Weights and a config that names the parts of the network: works for encoders whose work depends on the image.

    Running the bundle needs sct and MONAI. Its config describes data set, network and inferer in MONAI's syntax, and
    every value in it can be changed on the command line of `monai.bundle run`.
    """

    name = "bundle"
    fixed_graph = False

    def write(self, folder: Path, *, source: Source) -> None:
        # a path would leave the temporary name in the archive
        with atomic(folder / WEIGHTS) as temporary, temporary.open("wb") as file:
            torch.save(source.network.state_dict(), file)
        write_text(folder / INFERENCE, json.dumps(inference_config(source), indent=1) + "\n")
        write_text(folder / METADATA, json.dumps(as_it_is(metadata(source)), indent=1) + "\n")
        write_text(folder / "docs/README.md", readme(source))
        write_text(folder / "LICENSE", license_text(source))

    def load(self, folder: Path, *, device: torch.device, precision: str, batch: int | None) -> Model:
        # the import takes seconds, and a prediction looks up all formats here
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(str(folder / INFERENCE))
        parser["bundle_root"], parser["device"] = str(folder), str(device)
        return parser.get_parsed_content("network").eval()


def inference_config(source: Source) -> dict[str, Any]:
    """The config for `monai.bundle run`: the run's nodes in MONAI's syntax, and the nodes that read and write files."""
    module = "sct.exporting.bundled"
    outputs, config = source.data.outputs, source.config
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "data": monai_node(config.data) | {"root": "@dataset_dir", "cache_dir": "$@output_dir + '/cache'"},
        "network_def": {
            "_target_": "sct.models.segmenter.Segmenter",
            **network_parts(source),
            "num_classes": outputs.num_channels,
        },
        "network": {
            "_target_": f"{module}.with_weights",
            "network": "@network_def",
            "path": f"$@bundle_root + '/{WEIGHTS}'",
            "device": "@device",
        },
        "inferer": monai_node(config.inferer),
        "dataset": {"_target_": f"{module}.Volumes", "path": "@dataset_dir", "data": "@data"},
        "evaluator": {
            "_target_": f"{module}.Predictor",
            "network": "@network",
            "dataset": "@dataset",
            "inferer": "@inferer",
            "output": "@output_dir",
            "device": "@device",
            "postprocessing": as_it_is(source.postprocessing),
            "look": source.look,
        },
        "run": ["$@evaluator.run()"],
    }


def network_parts(source: Source) -> dict[str, Any]:
    """The nodes of the parts of the network, with the sizes that `runs.build.build_segmenter` gives them."""
    outputs, config = source.data.outputs, source.config
    sizes = {
        "image_size": list(source.data.roi_size),
        "in_channels": source.data.num_channels,
        "num_classes": outputs.num_channels,
        "overlapping": outputs.overlapping,
    }
    if config.get("model") is not None:
        encoder: dict[str, Any] = {"_target_": "sct.models.base.ImageOnly"}
        completion: dict[str, Any] = {"_target_": "sct.models.completion.scatter.Scatter", "_mode_": "callable"}
        decoder = monai_node(config.model)
    else:
        encoder, completion, decoder = (monai_node(config[part]) for part in ("encoder", "completion", "decoder"))
    look = {} if config.get("look") is None else {"look": monai_node(config.look)}
    return {"encoder": {**encoder, **sizes}, "completion": completion, "decoder": decoder, **look}


def monai_node(node: DictConfig) -> dict[str, Any]:
    """A `_target_` node with its inner nodes for MONAI's parser, which marks partial nodes in another way."""

    def translated(value: Any) -> Any:
        if not isinstance(value, dict):
            return as_it_is(value) if not isinstance(value, list) else [translated(item) for item in value]
        inner = {key: translated(item) for key, item in value.items() if key != "_partial_"}
        return {**inner, "_mode_": "callable"} if value.get("_partial_") else inner

    return translated(to_dict(node))


def as_it_is(value: Any) -> Any:
    """Texts in JSON values as MONAI's parser gives them back.

    The parser runs `$...`, replaces `@...` and `%...` by what they name, which may be a file, and changes `#`. A name
    in the config of a run may come from a stranger: such a text becomes an expression of nothing but the text.
    """
    if isinstance(value, dict):
        return {key: as_it_is(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_it_is(item) for item in value]
    if not isinstance(value, str) or not SPECIAL & set(value):
        return value
    return "$'" + "".join(letter if letter.isalnum() else f"\\U{ord(letter):08x}" for letter in value) + "'"


def metadata(source: Source) -> dict[str, Any]:
    """The metadata that MONAI requires of a bundle, all taken from the run."""
    data, outputs, name = source.data, source.data.outputs, source.config.name
    channels = outputs.names if outputs.overlapping else outputs.legend
    window = {"type": "image", "num_channels": data.num_channels, "spatial_shape": list(data.roi_size)}
    common = {"format": "raw", "dtype": "float32", "is_patch_data": True}
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by sct {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": str(torch.__version__).partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"sct": __version__},
        "name": name,
        "task": f"Segmentation of {', '.join(outputs.names)}",
        "description": f"{name}: a network of sct, trained on {type(data).__name__}, for windows of {data.roi_size}.",
        "authors": source.authors,
        "copyright": f"Copyright (c) {source.authors}",
        "data_type": data.format.name,
        "intended_use": "Research. Not a medical device.",
        "network_data_format": {
            "inputs": {"image": window | common | {"value_range": [], "channel_def": {}}},
            "outputs": {
                "pred": {
                    "type": "logits",
                    "num_channels": outputs.num_channels,
                    "spatial_shape": list(data.roi_size),
                    **common,
                    "value_range": [],
                    "channel_def": {str(place): channel for place, channel in enumerate(channels)},
                }
            },
        },
    }
