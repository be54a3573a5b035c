"""Checkpoints: always whole, two kept, damage noticed, another model refused."""

import logging
import os

import pytest
import torch
from torch import nn

from sct.errors import UserError
from sct.runtime import checkpoint


def save_steps(run, *steps):
    for step in steps:
        checkpoint.save_step({"step": step}, run, step=step)


def names(run):
    return [path.name for path in checkpoint.step_files(run)]


def test_the_two_newest_are_kept(tmp_path):
    save_steps(tmp_path, 2, 4, 6)
    assert names(tmp_path) == ["step_00000006.pt", "step_00000004.pt"]
    assert checkpoint.load_newest(tmp_path)["step"] == 6


def test_a_failed_save_leaves_all_as_it_was(tmp_path, monkeypatch):
    save_steps(tmp_path, 2, 4)
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, lambda *args: (_ for _ in ()).throw(OSError("gone")))
            with pytest.raises(OSError, match="gone"):
                save_steps(tmp_path, 6)
        assert names(tmp_path) == ["step_00000004.pt", "step_00000002.pt"]
        assert checkpoint.load_newest(tmp_path)["step"] == 4
    save_steps(tmp_path, 6)
    assert sorted(path.name for path in (tmp_path / checkpoint.FOLDER).iterdir()) == names(tmp_path)[::-1]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"nonsense"])
def test_a_damaged_last_one_falls_back_to_the_one_before(tmp_path, damage, caplog):
    save_steps(tmp_path, 2, 4)
    last = checkpoint.step_files(tmp_path)[0]
    last.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_newest(tmp_path)["step"] == 2
    assert str(last) in caplog.text


def test_a_truncated_one_is_damaged(tmp_path):
    checkpoint.save_step({"step": 2, "model": {"weight": torch.zeros(1000)}}, tmp_path, step=2)
    path = checkpoint.step_files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match="can't be read"):
        checkpoint.load(path)


def test_a_damaged_one_does_not_outlive_good_ones(tmp_path):
    save_steps(tmp_path, 2, 9)
    checkpoint.step_files(tmp_path)[0].write_bytes(b"")
    save_steps(tmp_path, 4)
    assert names(tmp_path) == ["step_00000004.pt", "step_00000002.pt"]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(tmp_path):
    save_steps(tmp_path, 2, 4)
    for path in checkpoint.step_files(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"No checkpoint in .* can be read"):
        checkpoint.load_newest(tmp_path)
    assert checkpoint.load_newest(tmp_path / "other") is None


def test_find_takes_a_file_or_the_best_or_last_of_a_folder(tmp_path):
    save_steps(tmp_path, 2, 4)
    last = tmp_path / checkpoint.FOLDER / "step_00000004.pt"
    assert checkpoint.find(str(tmp_path), weights="best") == last
    best = tmp_path / checkpoint.FOLDER / "best.pt"
    checkpoint.save({"step": 2}, best)
    assert checkpoint.find(str(tmp_path), weights="best") == best
    assert checkpoint.find(str(tmp_path), weights="last") == last
    assert checkpoint.find(str(last), weights="best") == last
    with pytest.raises(UserError, match=r"ckpt=.*neither a checkpoint file nor a run folder"):
        checkpoint.find(str(tmp_path / "none"), weights="best")


def test_weights_of_another_model_are_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1), nn.Linear(1, 1))
    with pytest.raises(UserError) as caught:
        checkpoint.load_weights(model, other.state_dict(), source="run X")
    message = str(caught.value)
    assert message.startswith("run X holds weights of another model")
    assert "2.weight is not in this model" in message
    assert "0.weight is (4, 2) in the file, (3, 2) in this model" in message
    with pytest.raises(UserError, match=r"1\.weight is missing in the file"):
        checkpoint.load_weights(model, model[:1].state_dict(), source="run X")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def adam(layer, *, groups=1, **settings):
    parameters = list(layer.parameters())
    parts = [parameters] if groups == 1 else [parameters[:1], parameters[1:]]
    return torch.optim.AdamW([{"params": part} for part in parts], **settings)


def test_an_optimizer_goes_on_with_its_state_under_the_settings_of_now():
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    old = adam(layer, lr=0.1, weight_decay=0.1)
    old.step()
    new = adam(layer, lr=0.2, weight_decay=0.3)
    checkpoint.load_optimizer(new, old.state_dict(), source="run X")
    assert new.param_groups[0]["weight_decay"] == 0.3
    assert torch.equal(new.state[layer.weight]["exp_avg"], old.state[layer.weight]["exp_avg"])
    with pytest.raises(UserError, match=r"run X groups the parameters differently"):
        checkpoint.load_optimizer(adam(layer, groups=2), old.state_dict(), source="run X")


def test_a_start_from_another_model_takes_what_fits_and_names_the_rest(caplog):
    source = {"0.weight": torch.ones(8, 8), "0.bias": torch.ones(8), "1.weight": torch.ones(3, 8), "old": torch.ones(1)}
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    before = model[1].weight.clone()
    with caplog.at_level(logging.INFO):
        checkpoint.initialize(model, source, source="run")
    assert (model[0].weight == 1).all()
    assert torch.equal(model[1].weight, before)
    assert "80.0 % of the weights" in caplog.text
    assert "start anew: 1.weight, 1.bias" in caplog.text
    assert "not used: 1.weight, old" in caplog.text


def test_a_start_from_something_else_is_refused():
    with pytest.raises(UserError, match=r"init=run has only 0% .*new: weight, bias; not used: other"):
        checkpoint.initialize(nn.Linear(2, 2), {"other": torch.ones(1)}, source="run")
