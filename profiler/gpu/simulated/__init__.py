"""A GPU that allocates and computes nothing, and reports every block that a real one would hand out."""

from profiler.gpu.simulated.device import bare_device, register, simulated_gpu
from profiler.gpu.simulated.tensors.unsupported import UnsupportedOperation

__all__ = ["UnsupportedOperation", "bare_device", "register", "simulated_gpu"]
