"""The sections of `scripts/gpu_report.py`: each file has the measurement and its table."""
