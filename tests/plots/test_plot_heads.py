"""Importance of heads: by loops over the equations, at the places of the tokens alive, and as it is drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import own_settings
from little_models import Combination, little_batch, little_network

from sct.errors import UserError
from sct.plots.__main__ import main
from sct.plots.commands import heads as command
from sct.plots.heads import HeadRow, draw_heads, head_importance
from sct.plots.planes import view


@torch.no_grad()
def test_importance_by_loops() -> None:
    which = Combination("dense", "scatter", "unetr", 2)
    network = little_network(which).eval()
    encoder, image = network.encoder, little_batch(which)[0][:1]
    found = head_importance(encoder, image, layer=2)
    block, x = encoder.blocks[1], encoder.blocks[0](encoder.embed(image))
    q, k, v = block.attn.qkv(block.norm1(x))[0].chunk(3, dim=1)
    D, norms = 24 // 2, []
    for head in range(2):
        part = slice(head * D, (head + 1) * D)
        context = (q[:, part] @ k[:, part].T / D**0.5).softmax(dim=1) @ v[:, part]
        norms.append([sum(value.item() ** 2 for value in token) ** 0.5 for token in context])
    # the class token has no place
    shares = np.array([[norms[h][i] / (norms[0][i] + norms[1][i]) for i in range(1, 17)] for h in range(2)])
    np.testing.assert_allclose(found, shares.reshape(2, 4, 4), rtol=1e-4)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "settings"), [("evit", ()), ("evit", ("encoder.reducer.fuse=true",)), ("asvit", ()), ("cropr", ())]
)
@torch.no_grad()
def test_pruned_patches_have_none(encoder: str, settings: tuple[str, ...]) -> None:
    which = Combination(encoder, "mta" if encoder != "cropr" else "scatter", "unetr", 2)
    network = little_network(which, *settings).eval()
    image = little_batch(which)[0][:1]
    encoded = network.encoder(image)
    # pruned after blocks 1 and 2: block 1 sees all
    assert np.isfinite(head_importance(network.encoder, image, layer=1)).all()
    second, third = (np.isfinite(head_importance(network.encoder, image, layer=layer)) for layer in (2, 3))
    if encoder == "cropr":
        # dropped tokens come back before the last block
        assert third.all()
        assert 0 < second[0].sum() < 16
        return
    # a fused token has no place
    dropped = [set(tokens.index[0].tolist()) - {16} for tokens in encoded.dropped]
    gone = dropped[0], dropped[0] | dropped[1]
    for seen, missing in zip((second, third), gone, strict=True):
        assert 0 < len(missing) < 16
        assert set(np.flatnonzero(~seen[0].flatten()).tolist()) == missing


def test_mistakes() -> None:
    which = Combination("dense", "scatter", "unetr", 2)
    image = little_batch(which)[0][:1]
    with pytest.raises(UserError, match="--layers 4: this network has blocks 1 to 3"):
        head_importance(little_network(which).eval().encoder, image, layer=4)
    which = Combination("apformer", "scatter", "unet", 2)
    with pytest.raises(UserError, match="no plain attention"):
        head_importance(little_network(which).eval().encoder, little_batch(which)[0][:1], layer=1)


def test_what_is_drawn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (4, 6))
    where = view(rng.random((3, 4, 6)), truth, spacing=(1, 1))
    importance = rng.dirichlet(np.ones(8), size=(2, 3)).transpose(2, 0, 1)
    importance[:, 0, 0] = np.nan
    rows = [HeadRow(name, where, truth, importance) for name in ("a", "b")]
    figure = draw_heads(rows, title="run", about="small print")
    named = [axes for axes in figure.axes if axes.get_title().startswith("head")]
    assert [axes.get_title() for axes in named] == [f"head {number}" for number in range(1, 9)] * 2
    for axes, values in zip(named, [*importance, *importance], strict=True):
        np.testing.assert_array_equal(axes.images[-1].get_array().filled(np.nan), values)
        assert axes.images[-1].get_clim() == (0, np.nanmax(importance))
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["a", "b"]


def test_the_command(finished_run: Path, tmp_path: Path) -> None:
    arguments = [str(finished_run), "--case", "0004", "--layers", "1", "2"]
    with own_settings():
        figure = command.draw(command.parser().parse_args(arguments)).figure
        main(["heads", *arguments, "--output", str(tmp_path / "heads")])
    assert [axes.get_ylabel().split("\n")[2] for axes in figure.axes if axes.get_ylabel()] == ["block 1", "block 2"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".pdf"}
