"""How a missing package is installed: into the environment that is running, from where `sct` itself was installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def install_command(extra: str) -> str:
    """The command that installs an extra; of a checkout with the tested versions.

    It names the interpreter, since the `pip` of a shell may belong to another environment.
    """
    source = f"-c constraints.txt -e '.[{extra}]'" if (ROOT / "pyproject.toml").is_file() else f"'sct[{extra}]'"
    return f"{sys.executable} -m pip install {source}"
