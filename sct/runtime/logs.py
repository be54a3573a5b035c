"""Log files that a full disk does not turn into tracebacks."""

import logging
import sys
from contextlib import suppress


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
