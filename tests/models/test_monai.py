"""Networks of MONAI and nnU-Net behind our interfaces: the same numbers, and every command works on them."""

import json
import sys

import pytest
import torch
from commands import run_command
from monai.networks.nets import UNet

from sct import eval as evaluation
from sct import profile, train
from sct.config.check import build, check_config
from sct.config.command import compose_config
from sct.config.folders import options
from sct.errors import UserError
from sct.profiling.macs import count_parameters
from sct.runs.build import build_segmenter


def network(model: str, *overrides: str):
    cfg = compose_config("train", overrides=["+experiment=demo", f"model={model}", *overrides])
    check_config(cfg)
    return build_segmenter(cfg, data=build(cfg.data, key="data"))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("model", [name for name in options("model") if name not in ("monai_unetr", "monai_vnet")])
def test_every_model_builds_and_predicts(model, dims):
    if model == "nnunet":
        pytest.importorskip("dynamic_network_architectures", reason="nnU-Net's package is not installed")
    segmenter = network(model, f"data.roi_size={[64] * dims}", "data.spacing=null").eval()
    with torch.no_grad():
        assert segmenter(torch.zeros(1, 1, *[64] * dims)).shape == (1, 7, *[64] * dims)
    assert count_parameters(segmenter) == count_parameters(segmenter.decoder.network)


def test_it_is_the_network_of_monai():
    segmenter = network("monai_unet", "data.roi_size=[16,16,16]").eval()
    theirs = UNet(
        spatial_dims=3, in_channels=1, out_channels=7, channels=[16, 32, 64, 128], strides=[2, 2, 2], num_res_units=2
    ).eval()
    theirs.load_state_dict(segmenter.decoder.network.state_dict())
    image = torch.randn(2, 1, 16, 16, 16)
    assert torch.equal(segmenter(image), theirs(image))


def test_sizes_that_the_network_cannot_take_are_refused():
    with pytest.raises(UserError, match="divisible by 32"):
        network("monai_swin_unetr", "data.roi_size=[48,48,48]")


def test_nnunet_is_that_of_its_planner():
    """Its number of weights, by hand."""
    pytest.importorskip("dynamic_network_architectures", reason="nnU-Net's package is not installed")
    with torch.device("meta"):
        segmenter = network("nnunet", "data.roi_size=[64,64,64]")
    # two convolutions of 27 places a stage and of every step up, a transposed one of 8, biases and norms
    features = [32, 64, 128, 256, 320, 320]
    expected, above = 0, 1
    for width in features:
        expected += 27 * (above + width) * width + 6 * width
        above = width
    for above, width in zip(features[:0:-1], features[-2::-1], strict=True):
        # every step up has its own head, of which only the last is used
        expected += 8 * above * width + width + 27 * 3 * width * width + 6 * width + 7 * (width + 1)
    assert count_parameters(segmenter) == expected


def test_nnunet_without_its_package_and_with_sizes_it_cannot_take(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
        with pytest.raises(UserError, match="pip install --no-deps dynamic-network-architectures"):
            network("nnunet", "data.roi_size=[64,64,64]")
    pytest.importorskip("dynamic_network_architectures", reason="nnU-Net's package is not installed")
    with pytest.raises(UserError, match=r"divisible by 32.*model\.features"):
        network("nnunet", "data.roi_size=[48,48,48]")


def test_settings_of_the_model_are_checked():
    with pytest.raises(UserError, match=r"Unknown key model\.network\.chanels"):
        network("monai_unet", "+model.network.chanels=[8]")


def test_train_evaluate_and_profile(smoke, tmp_path):
    run = tmp_path / "run"
    model = ("model=monai_unet", "model.network.channels=[4,8]", "model.network.strides=[2]", "model.multiple_of=2")
    assert run_command(train.main, *smoke, *model, f"run_dir={run}").status == 0
    assert run_command(evaluation.main, f"ckpt={run}").status == 0
    assert (run / "eval/test/table.md").exists()
    outcome = run_command(profile.main, f"ckpt={run}")
    assert outcome.status == 0, outcome.err
    found = json.loads((run / "profile.json").read_text())
    assert found["params_by_part"]["encoder"] == 0
    assert found["macs"]["decoder"] == found["macs"]["total"] > 0
    assert found["tokens_alive"] == []
