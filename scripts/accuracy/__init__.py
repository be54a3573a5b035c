"""The parts of `scripts/accuracy_table.py`: what is compared, the runs, and the table."""
