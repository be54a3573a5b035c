"""Mutated files for `scripts/fuzz_inputs.py`: one module a group of kinds, each with a reading of its own as oracle."""
