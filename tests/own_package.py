"""The package and the configs that docs/how-to/own-code.md makes, written into a folder."""

import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "own-code.md"
PACKAGE = "mypkg"
# what its import leaves behind
MARK = "imported"
FILE = re.compile(r"^```(?:python|yaml)\n((?:# @package _global_\n)?# (\S+)\n.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def write_package(folder: Path) -> None:
    """Every file of the page below `folder`; the import of the package makes the file `MARK` there."""
    for text, name in FILE.findall(PAGE.read_text()):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    mark = f"from pathlib import Path\n\nPath({str(folder / MARK)!r}).touch()\n"
    (folder / PACKAGE / "__init__.py").write_text(mark)


def forget(folder: Path) -> None:
    """Makes the package as it is before its first import."""
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    (folder / MARK).unlink(missing_ok=True)
