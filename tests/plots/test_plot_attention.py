"""Figure 7: the query that is chosen, its row on the grid, the scale, and what is drawn."""

import numpy as np
import pytest
import torch

from sct.plots.attention import (
    Matrices,
    border_query,
    draw_attention,
    foreground_shares,
    limits,
    row_on_grid,
)
from sct.plots.planes import view

ALL = np.ones((2, 3), bool)


def test_shares_of_patches_by_hand() -> None:
    label = torch.tensor([[0, 1, 2, 2], [0, 0, 1, 1]])
    np.testing.assert_allclose(foreground_shares(label, patch_size=(2, 2)), [[0.25, 1.0]])
    assert foreground_shares(torch.ones(4, 4, 2), patch_size=(2, 2, 2)).shape == (2, 2, 1)


def test_the_query_is_a_patch_on_the_border_that_is_not_pruned() -> None:
    shares = np.array([[0.1, 0.6, 1.0], [0.0, 0.55, 0.7]])
    assert border_query(shares, ALL) == (1, 1)
    query_mask = ALL.copy()
    query_mask[1, 1] = False
    assert border_query(shares, query_mask) == (0, 1)
    # no patch that stays a query is half in the foreground
    assert border_query(shares, shares < 0.5) == (1, 1)
    assert border_query(shares / 3, ALL) == (0, 2)
    assert border_query(np.zeros((2, 3)), ALL) == (0, 0)
    assert border_query(np.full((2, 2, 2), 0.5), np.ones((2, 2, 2), bool)) == (0, 0, 0)


def test_a_row_has_every_key_at_its_place() -> None:
    matrix = np.arange(36).reshape(6, 6)
    np.testing.assert_array_equal(row_on_grid(matrix, (1, 0), (2, 3)), [[18, 19, 20], [21, 22, 23]])


def test_limits_are_percentiles_of_what_is_not_pruned() -> None:
    values = np.concatenate([np.zeros(500), np.linspace(1, 1001, 1001)])
    assert limits(values) == pytest.approx((11, 1000))
    low, high = limits(np.full(7, 3.0))
    assert (high / low, low * high) == pytest.approx((2, 9))


def test_what_is_drawn() -> None:
    rng = np.random.default_rng(0)
    before = rng.dirichlet(np.ones(6), size=6)
    after = np.where(before < 0.1, 0, before)
    query_mask = ALL.copy()
    query_mask[0, 2], after[2] = False, 0
    truth = np.zeros((4, 6), int)
    truth[2:, :2] = 1
    where = view(np.zeros((3, 4, 6)), truth, spacing=(1, 1))
    figure = draw_attention(
        Matrices(before, after, query_mask, 0.25),
        head=3,
        where=where,
        truth=truth,
        query=(1, 0),
        title="case",
        about="small print",
    )
    panels, bars = figure.axes[:5], figure.axes[5:]
    assert len(bars) == 4
    assert "16.7%" in figure.get_suptitle()
    assert "25.0%" in figure.get_suptitle()
    shown = [axes.images[-1] for axes in panels]
    np.testing.assert_allclose(shown[0].get_array(), before * 6)
    np.testing.assert_allclose(shown[1].get_array().filled(0), after * 6)
    np.testing.assert_allclose(shown[3].get_array(), before[3].reshape(2, 3) * 6)
    np.testing.assert_array_equal(np.ma.getmaskarray(shown[4].get_array()), after[3].reshape(2, 3) == 0)
    for image, values in ((shown[0], before), (shown[1], after), (shown[3], before[3]), (shown[4], after[3])):
        assert image.get_clim() == pytest.approx(limits(values * 6))
    assert [axes.get_title() for axes in panels[:2]] == [
        f"Attention of head 3 {when} pruning" for when in ("before", "after")
    ]
    assert shown[3].get_extent() == [-0.5, 5.5, 3.5, -0.5]
    frame = panels[4].get_lines()[-1]
    assert (min(frame.get_xdata()), max(frame.get_xdata())) == (-0.5, 1.5)
    assert (min(frame.get_ydata()), max(frame.get_ydata())) == (1.5, 3.5)
