"""The sections of `scripts/gpu_report.py`: in every file what is measured, and the table of it."""
