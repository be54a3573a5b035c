"""The Python of README, docs and notebook runs.

Each page's blocks run one after the other, in the folder of a user. A page that makes a package of the user's own is
followed step by step: its files are written, its commands run as they stand.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import own_settings
from doc_pages import DOCS, ROOT, SHELL, Block, blocks, commands, file_of, makes_files, notebook_cells, pages
from shrunk import MAINS, succeed

# pages with fragments of Python, or Python that needs another package: a test of their own takes them apart
FRAGMENTS = {
    "docs/how-to/add-a-method.md": "tests/models/test_add_a_method.py",
    "docs/getting-started/from-nnunet.md": "tests/nnunet/test_trainers.py",
}
PAGES = [
    page
    for page in pages()
    if blocks(page, "python") and not makes_files(page) and str(page.relative_to(ROOT)) not in FRAGMENTS
]
STORIES = [page for page in pages() if makes_files(page)]
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_python_of_a_page_runs(page: Path, place: Path) -> None:
    names: dict[str, object] = {}
    with own_settings():
        for block in blocks(page, "python"):
            exec(compile(block.text, block.place, "exec"), names)


@pytest.mark.parametrize(("page", "test"), FRAGMENTS.items())
def test_fragments_have_a_test_of_their_own(page: str, test: str) -> None:
    assert (ROOT / page).is_file()
    assert Path(page).name in (ROOT / test).read_text()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[str(path.relative_to(ROOT)) for path in NOTEBOOKS])
def test_a_notebook_runs(notebook: Path, place: Path) -> None:
    names: dict[str, object] = {}
    with own_settings():
        for number, cell in enumerate(notebook_cells(notebook), start=1):
            exec(compile(cell, f"{notebook.name}, code cell {number}", "exec"), names)


@pytest.fixture
def home(user_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with images and labels in it, and nothing of a package imported before or after."""
    shutil.copytree(user_folder / "data/phantom_smoke/organs/RawData/Training", tmp_path / "data/pairs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def live(block: Block, *, names: dict[str, object]) -> None:
    """Does what a reader does with a block."""
    if path := file_of(block):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(block.text)
        if path.endswith(".py"):
            (Path(path).parent / "__init__.py").touch()
    elif block.language in SHELL:
        for words in commands(block):
            found = re.fullmatch(r"python -m sct\.(\w+) (.*)", shlex.join(words))
            assert found, f"{block.place}: no rule for {shlex.join(words)}"
            succeed(MAINS[found[1]], *shlex.split(found[2]))
    elif block.language == "python":
        with own_settings():
            exec(compile(block.text, block.place, "exec"), names)


@pytest.mark.parametrize("page", STORIES, ids=[str(page.relative_to(ROOT)) for page in STORIES])
def test_a_page_can_be_followed(page: Path, home: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks(page):
        live(block, names=names)
