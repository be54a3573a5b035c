"""The Python of README, docs and notebook runs: each page's blocks one after the other, in the folder of a user."""

from pathlib import Path

import pytest
from commands import own_settings
from doc_pages import DOCS, ROOT, blocks, makes_files, notebook_cells, pages

PAGES = [page for page in pages() if blocks(page, "python") and not makes_files(page)]
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_python_of_a_page_runs(page: Path, place: Path) -> None:
    names: dict[str, object] = {}
    with own_settings():
        for block in blocks(page, "python"):
            exec(compile(block.text, block.place, "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[str(path.relative_to(ROOT)) for path in NOTEBOOKS])
def test_a_notebook_runs(notebook: Path, place: Path) -> None:
    names: dict[str, object] = {}
    with own_settings():
        for number, cell in enumerate(notebook_cells(notebook), start=1):
            exec(compile(cell, f"{notebook.name}, code cell {number}", "exec"), names)
