"""Sparse-token transformers for medical image segmentation: train, compare, profile, ship."""

__version__ = "0.1.0"
