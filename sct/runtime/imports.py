"""Imports by one thread at a time, of packages whose modules import each other."""

import threading

# Held for every import of MONAI that may happen in a thread, and of whatever a config names. Two threads that import
# such a package in different orders wait for each other; Python then gives up on one of them, with a KeyError.
IMPORTING = threading.RLock()
