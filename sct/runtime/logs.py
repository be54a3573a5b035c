"""Log files that a full disk does not turn into tracebacks, and lines that a terminal shows and does not obey."""

import logging
import sys
from contextlib import suppress

from sct.errors import visible


class LogFormatter(logging.Formatter):
    """Time and message; control characters, which names in files of a stranger may have, are shown as \\x1b."""

    def __init__(self, line: str = "%(asctime)s %(message)s") -> None:
        super().__init__(line, datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class RunLog(logging.FileHandler):
    """A log file; where it can't be written, one line on stderr says so, and what is logged goes on elsewhere."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            sys.stderr.write(f"{self.baseFilename} can't be written ({error.strerror})\n")

    def close(self) -> None:
        with suppress(OSError):  # lines that the disk had no room for
            super().close()
