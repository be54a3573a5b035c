"""The gate over the image: patches that ask nothing are pale, the others as they are."""

import numpy as np

from sct.plots.gate import GateRow, draw_gate
from sct.plots.planes import faded, view


def test_a_row_of_three_panels_for_every_case() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for name in ("a", "b"):
        truth = rng.integers(0, 2, (4, 6))
        probability = rng.random((2, 3))
        where = view(rng.random((3, 4, 6)), truth, spacing=(1, 1))
        rows.append(GateRow(name, where, truth, probability, probability > 0.3))
    figure = draw_gate(rows, threshold=0.3, title="run", about="small print")
    panels, (bar,) = figure.axes[:6], figure.axes[6:]
    for number, row in enumerate(rows):
        image, gate, asks = panels[3 * number : 3 * number + 3]
        assert image.get_ylabel() == row.name
        np.testing.assert_array_equal(gate.images[-1].get_array(), row.probability)
        np.testing.assert_array_equal(asks.images[-1].get_array(), faded(row.where.picture, row.query_mask))
        assert f"{row.query_mask.mean():.1%}" in asks.get_xlabel()
    assert bar.get_lines()[-1].get_xdata() == [0.3, 0.3]
