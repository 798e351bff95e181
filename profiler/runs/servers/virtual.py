"""A server of processes on the virtual GPU: it has the stand-ins preloaded, and sees no GPU yet."""

import ctypes
from contextlib import suppress

import numpy.ma  # noqa: F401  np.unique asks for it

import profiler.recording.virtual.recorder
import profiler.runs.servers.ordinary  # noqa: F401
from profiler.gpu.virtual.installation import find_torch
from profiler.gpu.virtual.values import kernels
from profiler.runs.provenance import version_of

_PLANNERS = ("libcudnn.so", "libcudnn_graph.so", "libcudnn_heuristic.so", "libcudnn_engines")

_cudnn = find_torch().cudnn
# What cuDNN plans with: each process would load it (stand_ins/cudnn/library.c).
for _file in sorted(_cudnn.parent.glob("*.so.9")) if _cudnn is not None else ():
    if _file.name.startswith(_PLANNERS):
        with suppress(OSError):
            ctypes.CDLL(str(_file))
version_of("transformers")
kernels.wrap_all()
kernels.forward_passes.stand_at_thread_key()  # what a run with checkpoints would do
