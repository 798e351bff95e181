"""A server of processes that run on the CPU, on a GPU that is here, or on a simulated one.

What cannot be imported is left to the process that needs it, which says so in its own words, to its own log:
the server says nothing.
"""

import os
from contextlib import suppress
from importlib import import_module

_MODELS = ("gpt2", "bert", "llama", "vit", "resnet")
_LIBRARIES = (
    "torch",
    "torch._dynamo",  # the optimizers import it, which takes longer than a simulation
    "transformers",
    *(f"transformers.models.{name}.modeling_{name}" for name in _MODELS),
    "profiler.runs.rows",
    "profiler.runs.execute",
    "profiler.formula.facts",
    "profiler.gpu.simulated.device",
    "profiler.recording.simulated",
    "profiler.training.models",
    "profiler.training.optimizers",
    "profiler.training.step",
)

for _output in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), _output)
for _library in _LIBRARIES:
    with suppress(Exception):
        import_module(_library)
with suppress(Exception):
    import_module("profiler.gpu.simulated.operations").single_kernels()
