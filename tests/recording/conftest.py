"""Autograd starts its threads at a process's first backward: the simulated device must exist before."""

from profiler.gpu.simulated import register

register()
