"""Parts of the export by hand: calls of a fixed batch, agreement, MONAI's config, and what a small graph keeps."""

import sys
from pathlib import Path

import pytest
import torch
from exported_runs import needs
from little_models import CLASSES, Combination, little_batch, little_network
from omegaconf import OmegaConf
from torch import Tensor, nn

from sct.data.outputs import numbered
from sct.errors import UserError
from sct.exporting import FORMATS, Source
from sct.exporting.agreement import compare
from sct.exporting.base import in_batches
from sct.exporting.bundle import monai_node
from sct.models.segmenter import Segmenter

CPU = torch.device("cpu")
DENSE = Combination("dense", "scatter", "fcn", 2)


class LittleData:
    """What a format asks of a data set."""

    num_channels, roi_size, outputs = 2, DENSE.image_size, numbered(CLASSES)


def source(network: nn.Module, *, batch: int | None = None, half: bool = False) -> Source:
    return Source(network, LittleData(), OmegaConf.create(), batch=batch, half=half)  # type: ignore[arg-type]


def test_calls_of_a_fixed_batch_are_filled_up() -> None:
    calls = []

    def model(windows: Tensor) -> Tensor:
        calls.append(windows.flatten().tolist())
        return 10 * windows

    logits = in_batches(model, batch=2)(torch.arange(5.0).reshape(5, 1))
    assert calls == [[0, 1], [2, 3], [4, 4]]
    assert logits.flatten().tolist() == [0, 10, 20, 30, 40]
    assert in_batches(model, batch=None) is model


def test_agreement_counts_the_worse_of_one_call_and_many() -> None:
    windows = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).unsqueeze(1)

    def original(windows: Tensor) -> Tensor:  # label 1 above 1.5
        return torch.cat([1.5 - windows, windows - 1.5], dim=1)

    def worse_alone(windows: Tensor) -> Tensor:  # label 1 above 0.75: another one of four voxels
        return original(windows + 0.75) if len(windows) == 1 else original(windows)

    same = compare(original, original, windows, outputs=numbered(2))
    assert (same.windows, same.equal_labels, same.largest_difference, same.largest_logit) == (2, 1.0, 0.0, 1.5)
    other = compare(worse_alone, original, windows, outputs=numbered(2))
    assert (other.equal_labels, other.largest_difference) == (0.75, 0.75)


def test_a_logit_that_is_no_number_is_no_agreement() -> None:
    windows = torch.ones(1, 1, 4)

    def broken(windows: Tensor) -> Tensor:
        return torch.full((1, 2, 4), torch.nan)

    agreement = compare(broken, lambda windows: torch.zeros(1, 2, 4), windows, outputs=numbered(2))
    assert agreement.largest_difference > 1e30


def test_monai_builds_partial_parts_under_another_mark() -> None:
    node = OmegaConf.create(
        {"_target_": "a.B", "width": "${..size}", "part": {"_target_": "a.C", "_partial_": True, "sizes": [1, 2]}}
    )
    root = OmegaConf.create({"size": 3, "node": node})
    expected = {"_target_": "a.B", "width": 3, "part": {"_target_": "a.C", "sizes": [1, 2], "_mode_": "callable"}}
    assert monai_node(root.node) == expected


@torch.no_grad()
@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_a_graph_of_three_windows_serves_five(tmp_path: Path, name: str) -> None:
    needs(name)
    network, windows = little_network(DENSE), torch.cat([little_batch(DENSE, seed=seed)[0] for seed in range(3)])[:5]
    FORMATS[name].write(tmp_path, source=source(network, batch=3))
    alone = FORMATS[name].load(tmp_path, device=CPU, precision="fp32", batch=None)
    with pytest.raises(Exception, match=r"3|batch|shape"):
        alone(windows)
    model = FORMATS[name].load(tmp_path, device=CPU, precision="fp32", batch=3)
    torch.testing.assert_close(model(windows), network(windows), atol=1e-5, rtol=0)


@torch.no_grad()
def test_openvino_in_half_the_size(tmp_path: Path) -> None:
    needs("openvino")
    network, windows = little_network(DENSE), little_batch(DENSE)[0]
    FORMATS["openvino"].write(tmp_path, source=source(network, half=True))
    floats = sum(value.numel() for value in network.parameters())
    assert (tmp_path / "model.bin").stat().st_size < 3 * floats
    for precision in ("fp32", "bf16"):
        logits = FORMATS["openvino"].load(tmp_path, device=CPU, precision=precision, batch=None)(windows)
        assert logits.dtype == torch.float32
        difference = (logits - network(windows)).abs().max()
        assert 0 < difference < 0.05 * network(windows).abs().max()


@pytest.mark.long
@torch.no_grad()
@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("encoder", ["tome", "cropr"])
def test_tokens_that_merge_or_return_are_exported(tmp_path: Path, encoder: str, name: str) -> None:
    needs(name)
    # more than half are merged: several matchings a stage
    network = little_network(DENSE._replace(encoder=encoder), "pruning.ratio=0.8")
    FORMATS[name].write(tmp_path, source=source(network))
    exported = FORMATS[name].load(tmp_path, device=CPU, precision="fp32", batch=None)
    for windows in (little_batch(DENSE, seed=2)[0], little_batch(DENSE, seed=3)[0][:1]):
        torch.testing.assert_close(exported(windows), network(windows))


@torch.no_grad()
@pytest.mark.parametrize("name", ["torch", pytest.param("onnx", marks=pytest.mark.long)])
@pytest.mark.parametrize("dims", [2, 3])
def test_ranks_with_neighbours_are_exported_for_any_number_of_windows(tmp_path: Path, dims: int, name: str) -> None:
    needs(name)
    which = Combination("stp", "scatter", "fcn", dims)
    network = little_network(which, "encoder.reducer.neighbours=0.5")
    made = source(network)
    made.data.roi_size = which.image_size
    FORMATS[name].write(tmp_path, source=made)
    exported = FORMATS[name].load(tmp_path, device=CPU, precision="fp32", batch=None)
    for windows in (little_batch(which, seed=2)[0], little_batch(which, seed=3)[0][:1]):
        torch.testing.assert_close(exported(windows), network(windows), atol=1e-5, rtol=1e-4)


def test_openvino_reports_to_nobody() -> None:
    needs("openvino")
    tools = FORMATS["openvino"].package("openvino.tools.ovc")
    assert type(tools.telemetry).__module__.endswith("telemetry_stub")


class OnlyPairs(Segmenter):
    """A network that reads its batch size once, as parts of others do."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return image.reshape(len(image), -1)


def test_a_network_of_one_batch_size_is_told_how(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch=4"):
        FORMATS["torch"].write(tmp_path, source=source(OnlyPairs()))


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_named_with_its_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for other in FORMATS[name].packages:
        if other != package:
            monkeypatch.setitem(sys.modules, other, sys)
    with pytest.raises(UserError, match=rf"needs the package {package}.*pip install .*\[{name}\]"):
        FORMATS[name].require()
