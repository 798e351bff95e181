"""Rows of measured and predicted memory: one a workload, device, phase and source."""
