"""Tests that need a GPU, marked `gpu`; without one they are skipped.

SCT_GPU_TESTS_ON=cpu runs them on the processor instead: whether the tests themselves work, where no GPU is at hand.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

PLACE = os.environ.get("SCT_GPU_TESTS_ON", "cuda")
# the little networks of the contract tests
sys.path.append(str(Path(__file__).parents[1] / "models"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if PLACE == "cuda" and not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """The GPU, which computes in float32 what it is told to, without TF32."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield torch.device(PLACE)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@pytest.fixture(params=[pytest.param("gpu", marks=pytest.mark.gpu), "cpu"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The GPU and the processor, for what no other test shows on the processor."""
    return request.getfixturevalue("gpu") if request.param == "gpu" else torch.device("cpu")
