"""A recorded program, run here on the GPU that torch sees; it is started on the virtual one.

`python -m tests.support.recorded.on_virtual_gpu NUMBER` runs the program of that number in TRACES and prints
the peaks of the recorded part as JSON.
"""

import json
import os
import sys
from contextlib import closing

import torch

from tests.support.recorded.programs import TRACES, Trace


def peaks(trace: Trace) -> dict[str, int]:
    """Bytes of peak allocated and of peak reserved, in the part of the program that was recorded."""
    with closing(trace.program(torch.device("cuda"))) as program:
        next(program)
        torch.cuda.reset_peak_memory_stats()
        next(program)
        return {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
        }


if __name__ == "__main__":
    print(json.dumps(peaks(TRACES[int(sys.argv[1])])), flush=True)
    # torch 2.14's autograd thread may still let go of Python objects while the interpreter ends, and abort.
    os._exit(0)
