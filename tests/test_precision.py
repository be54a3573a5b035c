"""What is told of a number format, and which devices have bf16."""

import logging

import pytest
import torch

from sct import precision
from sct.precision import NumberFormat, has_bf16, warn_once


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
    ("device", "processor", "card", "expected"),
    [
        ("cpu", True, False, True),
        ("cpu", False, True, False),
        ("cuda", True, False, False),
        ("cuda", False, True, True),
    ],
)
def test_which_devices_have_bf16(monkeypatch, device, processor, card, expected):
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: processor)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: card or including_emulation)
    assert has_bf16(torch.device(device)) is expected
    assert not has_bf16(torch.device("meta"))
