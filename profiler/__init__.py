"""Every byte of a PyTorch training step: measured, predicted, and explained."""

__version__ = "0.1.0"
