"""Faults that a command must survive, for scripts that bring them about on purpose."""
