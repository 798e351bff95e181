"""The simulated device exists before the first backward of the process, when autograd starts its threads."""

from profiler.gpu.simulated import register

register()
