"""GRPE as heat maps: the matrices by equations 8 and 9, and what is drawn of them."""

import math

import numpy as np
import pytest
import torch
from little_models import Combination, little_network

from sct.errors import UserError
from sct.plots.positions import Positions, draw_positions, positions_of


def test_matrices_by_the_equations() -> None:
    encoder = little_network(Combination("apformer", "scatter", "unet", 2)).encoder
    module = encoder.blocks[1].attn.positions
    with torch.no_grad():
        module.position_table.normal_()
        module.theta.copy_(torch.tensor([0.3, 0.5]))
    found = positions_of(encoder, layer=2, head=2)
    h, w = encoder.spec.grid
    theta = 0.5 * max(h, w)
    assert found.theta == pytest.approx(theta)
    table = module.position_table[1].reshape(2 * h - 1, 2 * w - 1).detach().numpy()
    for i in range(h * w):
        for j in range(h * w):
            down, right = i // w - j // w, i % w - j % w
            gaussian = math.exp(-(down**2 + right**2) / (2 * theta**2))
            assert found.gaussian[i, j] == pytest.approx(gaussian, rel=1e-4)
            expected = gaussian + table[down + h - 1, right + w - 1]
            assert found.whole[i, j] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_mistakes() -> None:
    encoder = little_network(Combination("apformer", "scatter", "unet", 2)).encoder
    with pytest.raises(UserError, match="--layer 4: this network has blocks 1 to 3"):
        positions_of(encoder, layer=4, head=1)
    with pytest.raises(UserError, match="--head 3: this network has heads 1 to 2"):
        positions_of(encoder, layer=1, head=3)
    for name in ("ap_setr", "dense"):
        plain = little_network(Combination(name, "scatter", "fcn", 2)).encoder
        with pytest.raises(UserError, match=r"no encoder\.attention\.positions"):
            positions_of(plain, layer=1, head=1)


@pytest.mark.parametrize("grid", [(2, 3), (2, 3, 2)])
def test_what_is_drawn(grid: tuple[int, ...]) -> None:
    N = math.prod(grid)
    rng = np.random.default_rng(0)
    positions = Positions(rng.random((N, N)), rng.random((N, N)), 1.5)
    query = (1, 2, 1)[: len(grid)]
    figure = draw_positions(positions, query=query, grid=grid, title="run", about="small print")
    place = int(np.ravel_multi_index(query, grid))
    panels = figure.axes[:4]
    for (left, right), values in zip((panels[:2], panels[2:]), (positions.gaussian, positions.whole), strict=True):
        np.testing.assert_array_equal(left.images[0].get_array(), values)
        row = values[place].reshape(grid)
        np.testing.assert_array_equal(right.images[0].get_array(), row[..., 1] if len(grid) == 3 else row)
        assert left.images[0].get_clim() == right.images[0].get_clim() == (values.min(), values.max())
        assert (right.get_lines()[-1].get_xdata()[0], right.get_lines()[-1].get_ydata()[0]) == (2, 1)
        assert left.get_yticks().tolist() == [place]
