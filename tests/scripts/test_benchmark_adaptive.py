"""The benchmark of APFormer's pruning counts what it says, on what the network really prunes."""

import runpy
from pathlib import Path

import pytest
import torch

from sct.config.check import build
from sct.config.command import compose_config

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark_adaptive.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    little = ["encoder.stem.widths=[4,6,8]", "encoder.patch_size=4", "encoder.dim=12", "encoder.depth=2"]
    cfg = compose_config("train", overrides=["encoder=apformer", *little, "encoder.attention.head_dim=6"])
    encoder = build(cfg.encoder, key="encoder", image_size=[16, 16], in_channels=1, num_classes=2).eval()
    # half of the patches are sure to be background
    with torch.no_grad():
        logits = encoder(noise()).gate
    encoder.gate.threshold = logits.softmax(dim=1)[:, 0].median().item()
    return encoder


def noise() -> torch.Tensor:
    return torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_shares_and_macs_of_an_image(script, encoder):
    image = noise()
    found = script["measure"](image, foreground=0.25, networks=script["variants"](encoder), repeats=1)
    encoded = encoder(image)
    num_queries = int(encoded.query_mask.sum())
    assert 0 < num_queries < 16
    assert found.alpha == 1 - num_queries / 16
    lambdas = [encoded.aux[f"dependencies_pruned_{block}"].item() for block in (1, 2)]
    assert found.dependencies == pytest.approx(sum(lambdas) / 2)
    N, C, inner = 16, 12, 36

    def block(n: int, pruned: float) -> float:
        keys_and_values, queries, out = 2 * N * C * inner, n * C * inner, n * inner * C
        return keys_and_values + queries + out + n * N * inner * (1 + 1 - pruned)

    assert found.macs["off"] == 2 * block(16, 0)
    assert found.macs["real"] == 2 * block(num_queries, 0)
    assert found.macs["counted"] == pytest.approx(sum(block(num_queries, share) for share in lambdas))
    assert set(found.ms) == {"off", "rows", "on"}


@torch.inference_mode()
def test_variants_prune_what_their_names_say(script, encoder):
    names = {name: set(network(noise()).aux) for name, network in script["variants"](encoder).items()}
    assert names["off"] == set()
    assert names["rows"] == {"queries_pruned"}
    assert names["on"] == {"queries_pruned", "dependencies_pruned_1", "dependencies_pruned_2"}


def test_the_table_groups_by_foreground(script):
    image = script["Image"]
    costs = {"off": 4e9, "real": 2e9, "counted": 1e9}
    images = [image(share, 0.5, lam, costs, {"off": 8.0, "rows": 4.0, "on": 6.0}) for share, lam in GROUPS]
    lines = script["table"](images, groups=2).splitlines()
    assert lines[2].startswith("| 1% to 2% | 2 | 50.0% | 30.0% | 4.000 / 2.000 / 1.000 | 8.00 / 4.00 / 6.00 | 2.00x |")
    assert lines[-1].startswith("| 1% to 50% | 4 | 50.0% | 40.0% |")


# share of foreground and lambda; an image of which no patch asks has none
GROUPS = ((0.01, float("nan")), (0.02, 0.3), (0.4, 0.4), (0.5, 0.5))
