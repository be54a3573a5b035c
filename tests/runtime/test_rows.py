"""Rows of metrics.jsonl: all good ones are read, whatever lies between them."""

import pytest

from sct.runtime.rows import read_rows

DAMAGED = [b'{"step": 2, "a": 0.5', b"\xff\x00", b"", b"[1]", b'{"stgp": 2}', b'{"step": "2"}', b"[" * 100_000]


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_takes_no_other_with_it(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    good = [b'{"step": 1, "a": 1.0}', b'{"step": 3, "a": NaN}']
    path.write_bytes(b"\n".join([good[0], line, good[1], b'{"step": 4, "tor']))
    rows = read_rows(path)
    assert rows.lines == good
    assert [row["step"] for row in rows.values] == [1, 3]
    assert rows.damaged == [2]


def test_no_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl").lines == []
