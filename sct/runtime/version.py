"""The version of the package; in a file of its own, which needs nothing."""

__version__ = "0.1.0"
