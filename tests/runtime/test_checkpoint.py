"""Checkpoints: always whole, two kept, damage noticed, another model refused."""

import errno
import logging
import os
import zipfile

import pytest
import torch
from commands import flipped
from torch import nn

from sct.errors import UserError
from sct.runtime import checkpoint, files


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


def test_a_damaged_one_that_was_passed_over_does_not_outlive_the_good_one_before(tmp_path):
    save_steps(tmp_path, 9, 11)
    checkpoint.step_files(tmp_path)[0].write_bytes(b"")
    resumed = checkpoint.load_newest(tmp_path)["step"]
    checkpoint.save_step({"step": 12}, tmp_path, step=12, previous=resumed)
    assert names(tmp_path) == ["step_00000012.pt", "step_00000009.pt"]
    checkpoint.save_step({"step": 12}, tmp_path, step=12, previous=12)
    assert names(tmp_path) == ["step_00000012.pt", "step_00000009.pt"]


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


def weights(path):
    """The weights of a checkpoint of `test_every_flipped_bit...`; None where the file is refused."""
    try:
        return checkpoint.load(path)["model"]["weight"]
    except UserError:
        return None


@pytest.mark.parametrize("program", ["this version", "an earlier version"])
def test_every_flipped_bit_is_noticed_or_without_effect(tmp_path, program):
    path, weight = tmp_path / "file.pt", torch.arange(12.0)
    checkpoint.save({"step": 2, "model": {"weight": weight}}, path)
    whole = path.read_bytes()
    if program == "an earlier version":
        whole = whole[: -checkpoint.ENDING_SIZE]
    noticed = 0
    for bit in range(0, 8 * len(whole), 23):
        path.write_bytes(flipped(whole, bit=bit))
        found = weights(path)
        assert found is None or torch.equal(found, weight), f"bit {bit}"
        noticed += found is None
    assert noticed > 0.3 * len(range(0, 8 * len(whole), 23))
    path.write_bytes(whole)
    assert torch.equal(weights(path), weight)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(tmp_path, caplog):
    save_steps(tmp_path, 2, 4)
    last, before = checkpoint.step_files(tmp_path)
    last.write_bytes(flipped(last.read_bytes(), bit=3000))
    assert checkpoint.load_newest(tmp_path)["step"] == 2
    assert f"{last} is damaged (its checksum differs)" in caplog.text
    assert f"going on from the checkpoint before, {before}" in caplog.text


def test_other_programs_read_a_checkpoint(tmp_path):
    checkpoint.save({"step": 2}, tmp_path / "file.pt")
    assert torch.load(tmp_path / "file.pt", weights_only=True)["step"] == 2
    assert zipfile.ZipFile(tmp_path / "file.pt").testzip() is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["1.weight"][0, 1] = value
    for load in (checkpoint.load_weights, checkpoint.initialize):
        with pytest.raises(UserError, match=r"run X holds weights that are NaN or infinite: 1\.weight\. "):
            load(model, state, source="run X")
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_large_and_intended_values_are_finite():
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["weight"][:] = 3e38  # their sum is infinite
    checkpoint.load_weights(model, state, source="run X")
    assert model.weight[0, 0] == state["weight"][0, 0]


def test_a_full_disk_is_told_as_the_system_says_it_and_leaves_nothing(tmp_path, monkeypatch):
    save_steps(tmp_path, 2)

    def cut_short(state, file):
        file.write(b"half")
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(RuntimeError, match="unexpected pos"):  # another error stays what it is
        save_steps(tmp_path, 4)
    monkeypatch.setattr(files, "why_full", lambda folder: OSError(errno.ENOSPC, "full", str(folder)))
    with pytest.raises(OSError) as caught:
        save_steps(tmp_path, 4)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in (tmp_path / checkpoint.FOLDER).iterdir()] == ["step_00000002.pt"]


def test_a_part_of_a_larger_model_is_a_start(caplog):
    """A pretrained encoder is most of its file, and a small part of a network with a large decoder."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(20, 20))
    with caplog.at_level(logging.INFO):
        checkpoint.initialize(model, {"0.weight": torch.ones(2, 2), "old": torch.ones(2)}, source="run")
    assert (model[0].weight == 1).all()
    assert "0.9 % of the weights, 66.7 % of the file's" in caplog.text
    with pytest.raises(UserError, match=r"only 1% of this model's weights, and 40% of its own fit"):
        checkpoint.initialize(model, {"0.weight": torch.ones(2, 2), "old": torch.ones(6)}, source="run")
