"""README and documentation as the tests read them: pages, code blocks, commands, links."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS, CONFIGS = ROOT / "docs", ROOT / "configs"
README = ROOT / "README.md"
# generated, with commands that stand for one another's runs
PAPER_TABLES = DOCS / "reference/paper-tables.md"
SHELL = ("bash", "sh")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page that it begins at."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    return [README, *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page, of these languages or of all."""
    found: list[Block] = []
    fence: str | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if not line.lstrip().startswith("```"):
            lines.append(line)
        elif fence is None:
            fence, start, lines = line.strip().removeprefix("```"), number, []
        else:
            found.append(Block(page, start, fence, "\n".join(lines)))
            fence = None
    assert fence is None, f"{page}: a block is not closed"
    return [block for block in found if not languages or block.language in languages]


def commands(block: Block) -> list[tuple[str, ...]]:
    """The words of every command of a shell block: lines are joined at backslashes and split at &&."""
    found: list[tuple[str, ...]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            found.append(tuple(words[: words.index("&&")]))
            words = words[words.index("&&") + 1 :]
        found.append(tuple(words))
    return [words for words in found if words]


def file_of(block: Block) -> str | None:
    """The file that a block is the content of: a comment in its first two lines names it."""
    for line in block.text.splitlines()[:2]:
        if named := re.fullmatch(r"# ([\w/]+\.(?:py|yaml))", line):
            return named[1]
    return None


def makes_files(page: Path) -> bool:
    """Whether a page writes Python files of a package: its blocks then belong together."""
    return any(file_of(block) for block in blocks(page, "python"))


def links(page: Path) -> list[str]:
    """What a page links to, code left out."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def notebook_cells(path: Path) -> list[str]:
    """The code cells of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), f"{path}: is committed without outputs"
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
