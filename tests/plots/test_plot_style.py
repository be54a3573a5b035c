"""One look: both files of a figure, nothing left behind in matplotlib, and the message where it is missing."""

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from sct.errors import UserError
from sct.plots import style


@style.styled
def drawn():
    figure = style.new_figure(1.0, width=2.0)
    figure.subplots().plot([0, 1], [1, 0])
    style.caption(figure, "small print " * 9)
    return figure


def test_a_figure_is_written_as_png_and_pdf_of_its_size(tmp_path: Path) -> None:
    written = style.save(drawn(), tmp_path / "new" / "v1.2")
    assert [path.name for path in written] == ["v1.2.png", "v1.2.pdf"]
    assert Image.open(written[0]).size == (600, 300)
    pdf = written[1].read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    again = style.save(drawn(), tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_the_users_own_settings_neither_count_nor_change(tmp_path: Path) -> None:
    plain = style.save(drawn(), tmp_path / "plain")[0].read_bytes()
    with matplotlib.rc_context({"lines.linewidth": 9.0, "savefig.facecolor": "red"}):
        assert style.save(drawn(), tmp_path / "own")[0].read_bytes() == plain
        assert matplotlib.rcParams["lines.linewidth"] == 9.0


def test_a_caption_is_wrapped_to_the_width() -> None:
    text = drawn().get_supxlabel()
    assert max(map(len, text.split("\n"))) <= 40
    assert " ".join(text.split()) == " ".join(["small print"] * 9)


def test_without_matplotlib_the_install_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e '\.\[figures\]'"):
        drawn()


def test_only_drawing_needs_matplotlib() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import sct.tasks.eval, sct.plots.attention, sct.plots.panels"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_colours_of_lines_differ_and_are_dark_enough_on_white() -> None:
    colors = np.array(style.LINE_COLORS)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distances[~np.eye(len(colors), dtype=bool)].min() > 0.2
    luminance = colors**2.2 @ [0.2126, 0.7152, 0.0722]
    assert (1.05 / (luminance + 0.05)).min() > 2


def test_a_logarithmic_axis_spans_a_decade() -> None:
    assert style.decade(1, 100) == (1, 100)
    low, high = style.decade(2, 5)
    assert (high / low, low * high) == pytest.approx((10, 10))


def test_ticks_are_round_and_few() -> None:
    assert style.round_numbers(0.3, 6) == pytest.approx([0.5, 1, 2, 5])
    assert style.round_numbers(0.0004, 8) == pytest.approx([0.001, 0.01, 0.1, 1])
