"""Autograd starts its threads at the first backward of the process: the simulated device must exist before."""

from profiler.gpu.simulated import register

register()
