"""Writes tests/models/primus_golden.json: outputs of little Primus networks of the authors' package.

    pip install dynamic-network-architectures    # in an environment of its own: the project does not need the package
    python scripts/make_primus_golden.py

No weights are stored: `filled` gives every weight from its name and shape, and `image_of` the image, here and in
tests/models/test_primus_golden.py. The file has a part of the tokens after the last norm, and of the logits.
"""

import importlib.machinery
import json
import math
import sys
import zlib
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np

OUTPUT = Path(__file__).parents[1] / "tests/models/primus_golden.json"
CHANNELS, CLASSES, PATCH, SIZE = 2, 3, 8, (16, 24, 16)
DIM, DEPTH, HEADS = 36, 2, 3
# channels of the tokenizers at each resolution: V2's are fixed in the package
WIDTHS = {"v2": (32, 32, 64, 128), "v3": (4, 6, 8, 10)}
# what is kept: every 6th channel of a token, every 5th voxel along each axis
TOKEN_STEP, VOXEL_STEP = 6, 5


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values between -1 and 1, without a pattern, that depend on a name and a shape alone."""
    places = np.arange(math.prod(shape), dtype=np.float64)
    phase = zlib.crc32(name.encode()) % 10007 / 100
    values = np.sin(12.9898 * places + phase) * 43758.5453
    return (2 * (values - np.floor(values)) - 1).reshape(shape)


def filled(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of a name in the package: near 0 as large as layers need, near 1 for factors."""
    values = noise(name, shape)
    if len(shape) > 1:
        return values * math.sqrt(3 * shape[0] / math.prod(shape))
    return np.asarray(0.2 * values + (not name.endswith("bias")))


def image_of() -> np.ndarray:
    """An image (1, CHANNELS, *SIZE)."""
    return noise("image", (1, CHANNELS, *SIZE))


class WithoutTorchvision:
    """Gives empty modules for torchvision, which timm imports: its public wheels break beside a CPU build of torch."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        ours = name.split(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> MagicMock:
        return MagicMock(name=spec.name, __path__=[], __spec__=spec)

    def exec_module(self, module: ModuleType) -> None:
        pass


def main() -> None:
    sys.meta_path.insert(0, WithoutTorchvision())  # type: ignore[arg-type]
    import torch
    from dynamic_network_architectures.architectures.primus import Primus, PrimusV2, PrimusV3

    common = {
        "input_channels": CHANNELS, "embed_dim": DIM, "patch_embed_size": (PATCH,) * 3, "num_classes": CLASSES,
        "eva_depth": DEPTH, "eva_numheads": HEADS, "input_shape": SIZE, "init_values": 0.1, "scale_attn_inner": True,
    }  # fmt: skip
    networks = {"v1": Primus(**common), "v2": PrimusV2(**common), "v3": PrimusV3(**common, ch_per_level=WIDTHS["v3"])}
    golden = {}
    for version, network in networks.items():
        network.double().eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(torch.from_numpy(filled(name, tuple(parameter.shape))))
            tokens: list[torch.Tensor] = []
            network.eva.register_forward_hook(lambda module, inputs, outputs, kept=tokens: kept.append(outputs[0]))
            logits = network(torch.from_numpy(image_of()))
        few = (slice(None, None, VOXEL_STEP),) * 3
        golden[version] = {
            "tokens": tokens[0][0, :, ::TOKEN_STEP].flatten().numpy().round(7).tolist(),
            "logits": logits[0][:, *few].flatten().numpy().round(7).tolist(),
        }
    OUTPUT.write_text(json.dumps(golden) + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
