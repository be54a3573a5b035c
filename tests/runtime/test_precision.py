"""What is told of a number format, and which devices have bf16."""

import logging

import pytest
import torch
from commands import run_command

from sct import eval as evaluation
from sct import predict
from sct.models import selfcheck
from sct.runtime import precision
from sct.runtime.precision import NumberFormat, has_bf16, warn_once


def test_a_format_and_its_reason_are_logged(caplog):
    caplog.set_level(logging.INFO)
    chosen = NumberFormat("bf16", "as somebody says")
    assert chosen.dtype == torch.bfloat16
    chosen.log()
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "computing in bf16: as somebody says")
    ]


def test_a_doubtful_format_is_a_warning_once_in_a_process(caplog):
    warn_once.cache_clear()
    for _ in range(2):
        NumberFormat("bf16", "though it is slow", doubtful=True).log()
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "computing in bf16: though it is slow")
    ]


@pytest.mark.parametrize(
    ("device", "on_cpu", "on_card", "expected"),
    [
        ("cpu", True, False, True),
        ("cpu", False, True, False),
        ("cuda", True, False, False),
        ("cuda", False, True, True),
    ],
)
def test_which_devices_have_bf16(monkeypatch, device, on_cpu, on_card, expected):
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: on_cpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: on_card or including_emulation)
    assert has_bf16(torch.device(device)) is expected
    assert not has_bf16(torch.device("meta"))


def test_evaluation_and_prediction_tell_it_and_tune_convolutions(finished_run, workplace, tmp_path):
    image = next((workplace / "data/phantom_smoke/organs").rglob("img0004.nii.gz"))
    for main, *settings in (
        (evaluation.main, "figures=0", "save_predictions=false"),
        (predict.main, f"input={image}"),
    ):
        torch.backends.cudnn.benchmark = False
        outcome = run_command(main, f"ckpt={finished_run}", *settings, f"output={tmp_path}/{main.__module__}")
        assert outcome.status == 0, outcome.err
        assert outcome.out.count("computing in fp32: set by trainer.precision of the run=fp32") == 1
        assert torch.backends.cudnn.benchmark


def test_the_remedy_for_a_slow_prediction_works(finished_run, workplace, tmp_path, monkeypatch):
    monkeypatch.setattr(selfcheck, "has_bf16", lambda device: False)
    warn_once.cache_clear()
    image = next((workplace / "data/phantom_smoke/organs").rglob("img0004.nii.gz"))
    where = (f"ckpt={finished_run}", f"input={image}", f"output={tmp_path}/out")
    slow, fast = (run_command(predict.main, *where, f"precision={name}") for name in ("bf16", "auto"))
    assert (slow.status, fast.status) == (0, 0)
    assert "fp32 is faster; give precision=auto to sct.eval or sct.predict" in slow.out
    assert "computing in fp32: this cpu has no instructions for bf16" in fast.out
    assert "faster" not in fast.out
