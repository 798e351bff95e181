"""A server of processes on the virtual GPU: it has the stand-ins preloaded, and sees no GPU yet."""

import profiler.recording.virtual.recorder
import profiler.runs.servers.ordinary  # noqa: F401
from profiler.gpu.virtual.values import kernels

kernels.wrap_all()
