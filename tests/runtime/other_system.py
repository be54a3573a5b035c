"""Imports every module of sct as macOS and Windows would, and predicts there.

    python tests/runtime/other_system.py ckpt=RUN input=FILE output=FOLDER ...

Other packages bring what they need for each system, so they are imported before Unix is taken away.
"""

import builtins
import importlib
import io
import os
import pkgutil
import platform
import signal
import sys
from collections.abc import Callable
from typing import Any

import sct

# modules, functions of os and signals that a system does not have
LACKING: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "Darwin": ((), ("sched_getaffinity", "sched_setaffinity", "memfd_create", "posix_fadvise"), ()),
    "Windows": (
        ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"),
        ("fork", "forkpty", "getuid", "geteuid", "getgid", "getpgid", "killpg", "nice", "uname", "setsid", "sysconf"),
        ("SIGKILL", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM"),
    ),
}


# modules that nnU-Net imports, and that import nnU-Net
OF_NNUNET = "sct.nnunet.trainers."


def import_all() -> list[str]:
    """Imports every module of sct anew; their names."""
    for name in [name for name in sys.modules if name.split(".")[0] == "sct"]:
        del sys.modules[name]
    importlib.import_module("sct")
    modules = (module.name for module in pkgutil.walk_packages(sct.__path__, "sct."))
    found = [name for name in modules if not name.startswith(OF_NNUNET)]
    for name in found:
        importlib.import_module(name)
    return found


def without_proc(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, for which there is nothing below /proc and /dev/shm."""

    def guarded(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(("/proc", "/sys", "/dev/shm")):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *arguments, **keywords)

    return guarded


def become(system: str) -> None:
    """Takes away what the system does not have."""
    platform.system = lambda: system
    modules, functions, signals = LACKING[system]
    for name in modules:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in functions:
        delattr(os, name)
    for name in signals:
        delattr(signal, name)
    builtins.open = io.open = without_proc(io.open)  # type: ignore[assignment]
    os.open, os.stat = without_proc(os.open), without_proc(os.stat)
    os.listdir, os.scandir = without_proc(os.listdir), without_proc(os.scandir)


if __name__ == "__main__":
    import_all()
    # in this order: Windows lacks what macOS lacks, and more
    for system in ("Darwin", "Windows"):
        become(system)
        sys.stdout.write("\n".join(import_all()) + "\n")
    sys.modules["sct.predict"].main()
