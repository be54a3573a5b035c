"""Phantom skin lesions: the same for the same parameters, in the published layout, of many sizes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sct.config.check import build
from sct.config.command import compose_config
from sct.data.phantoms import isic as phantom_isic
from sct.data.phantoms.isic import PhantomISIC, draw_lesion
from sct.errors import UserError


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., PhantomISIC]:
    def make_phantom(*overrides: str) -> PhantomISIC:
        sizes = ["data.num_train=3", "data.num_val=1", "data.num_test=1", "data.longest=[40,80]"]
        paths = [f"data.root={tmp_path}/skin", f"data.cache_dir={tmp_path}/cache"]
        cfg = compose_config("train", overrides=["data=phantom_isic", *sizes, *paths, *overrides])
        return build(cfg.data, key="data")

    return make_phantom


def pixels(data: PhantomISIC) -> list[np.ndarray]:
    cases = [case for part in ("train", "val", "test") for case in data.cases(part)]
    return [np.asarray(Image.open(path)) for case in cases for path in (case.image, case.label)]


def test_same_parameters_same_pixels(make: Callable, tmp_path: Path) -> None:
    one = pixels(make())
    other = pixels(make(f"data.root={tmp_path}/b"))
    third = pixels(make(f"data.root={tmp_path}/c", "data.seed=1"))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one[::2], third[::2], strict=True))


def test_a_set_is_reused_and_another_is_refused(make: Callable, tmp_path: Path, monkeypatch) -> None:
    data = make()
    data.prepare()
    parts = [[case.id for case in data.cases(part)] for part in ("train", "val", "test")]
    assert parts == [["ISIC_0000000", "ISIC_0000001", "ISIC_0000002"], ["ISIC_0000003"], ["ISIC_0000004"]]
    record = tmp_path / "skin" / "phantom.json"
    before = record.stat().st_mtime_ns
    make().prepare()
    assert record.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"data.num_train is 4, there 3"):
        make("data.num_train=4").prepare()
    monkeypatch.setattr(phantom_isic, "SKIN", phantom_isic.SKIN * 0.8)
    with pytest.raises(UserError, match="first_case"):
        make().prepare()


def test_lesions_are_darker_of_many_sizes_and_off_the_border() -> None:
    shares, shapes, contrasts = [], set(), []
    for index in range(40):
        picture, mask = draw_lesion(longest=[60, 100], rng=np.random.default_rng(index))
        assert picture.shape == (*mask.shape, 3)
        shapes.add(mask.shape)
        shares.append(mask.mean())
        rows, columns = (np.indices(mask.shape) - np.array(mask.shape).reshape(2, 1, 1) / 2) / min(mask.shape)
        skin = ~mask & (np.hypot(rows, columns) < 0.5)
        contrasts.append(picture[skin].mean() - picture[mask].mean())
    assert len(shapes) > 20
    assert min(shares) < 0.04
    assert 0.35 < max(shares) < 0.9
    assert min(contrasts) > 5
    assert max(contrasts) > 3 * min(contrasts)


def test_sizes_that_make_no_picture_are_refused(make: Callable) -> None:
    with pytest.raises(UserError, match=r"data\.longest=\[80, 40\]"):
        make("data.longest=[80,40]")
