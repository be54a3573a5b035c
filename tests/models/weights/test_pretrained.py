"""Pretrained files of every kind: read, checked, put into the encoder and logged."""

import logging
import sys
from argparse import Namespace

import pytest
import torch
from published_weights import autoencoder, little_vit, published
from safetensors.torch import save_file

from sct.errors import UserError
from sct.models.weights.pretrained import load_pretrained, read_weights
from sct.runtime import checkpoint


def wrapped(weights):
    return {f"module.backbone.{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    "pack",
    [
        lambda weights: weights,
        lambda weights: {"model": weights, "epoch": 3, "args": Namespace(lr=0.1)},
        lambda weights: {"state_dict": weights, "optimizer": {"state": {0: torch.ones(1)}}},
        lambda weights: {"student": {}, "teacher": wrapped(weights)},
        lambda weights: {"model": {"state_dict": wrapped(weights)}},
    ],
    ids=["plain", "model", "state_dict", "teacher", "nested"],
)
def test_weights_are_found_in_what_they_are_packed_in(pack, tmp_path):
    weights = published(little_vit())
    torch.save(pack(weights), tmp_path / "file.pth")
    found = read_weights(str(tmp_path / "file.pth"))
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
def test_a_file_goes_into_the_encoder_and_the_log(ending, tmp_path, caplog):
    source, encoder = little_vit(seed=0), little_vit(seed=1, class_token=False)
    path = tmp_path / f"file.{ending}"
    weights = {**autoencoder(source), "odd": torch.ones(1)}
    (save_file if ending == "safetensors" else torch.save)(weights, path)
    with caplog.at_level(logging.INFO):
        load_pretrained(encoder, str(path))
    own = source.state_dict()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, own[name][:, 1:] if name == "position" else own[name])
    assert f"pretrained={path}: 41 of the encoder's 41 tensors, 100.0 % of its parameters" in caplog.text
    assert "weights of heads and other parts are not used: decoder_" in caplog.text
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["2 weights in the file do not fit the encoder: cls_token, odd"]


def test_a_file_without_the_transformer_is_refused_and_changes_nothing(tmp_path):
    weights = {name: value for name, value in published(little_vit()).items() if not name.startswith("blocks.")}
    torch.save({**weights, "layers.0.weight": torch.ones(1)}, tmp_path / "file.pth")
    encoder = little_vit(seed=1)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(
        UserError, match=r"has only 0% .*missing: blocks\.0.*and 30 more; not used: layers\.0\.weight, head"
    ):
        load_pretrained(encoder, str(tmp_path / "file.pth"))
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(("depth", "refused"), [(1, True), (2, False)])
def test_half_of_the_transformer_is_the_least(depth, refused, tmp_path, caplog):
    torch.save(published(little_vit(depth=depth)), tmp_path / "file.pth")
    if refused:
        with pytest.raises(UserError, match=r"has only 33% of the transformer's parameters"):
            load_pretrained(little_vit(seed=1), str(tmp_path / "file.pth"))
    else:
        load_pretrained(little_vit(seed=1), str(tmp_path / "file.pth"))
        assert "12 weights missing in the file are initialised anew: blocks.2.norm1.weight" in caplog.text


def test_a_3d_encoder_is_refused():
    with pytest.raises(UserError, match=r"pretrained=FILE: these are weights of 2-D networks.*\[16, 16, 16\]"):
        load_pretrained(little_vit(image_size=(16, 16, 16)), "FILE")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "holds a Tensor, not a state dict"),
        ({"format": checkpoint.FORMAT, "model": {}}, "is a checkpoint of sct; give it as init="),
    ],
)
def test_files_with_something_else_in_them(content, message, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=message):
        read_weights(str(tmp_path / "file.pth"))


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
def test_damaged_and_absent_files(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(UserError, match=rf"{name} is not a file\. Give a \.pth, .* or timm:NAME"):
        read_weights(str(path))
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=rf"{name} can't be read"):
        read_weights(str(path))


def test_without_timm_its_install_command_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pretrained=timm:vit_tiny needs the package timm.*pip install .*\[timm\]"):
        read_weights("timm:vit_tiny")


def test_a_name_that_timm_does_not_know():
    pytest.importorskip("timm", exc_type=ImportError)
    with pytest.raises(UserError, match=r"pretrained=timm:no_such_vit: timm can't give these weights"):
        read_weights("timm:no_such_vit")
