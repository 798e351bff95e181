"""Each function of a program in a process of its own, and what it took: a line of JSON a function.

    profiler on A100-40GB -- python -m tests.field_cases.each tests/field_cases/programs/nan_checks.py
    python -m tests.field_cases.each tests/field_cases/programs/nan_checks.py --simulated A100-40GB

The first runs it on the virtual GPU, the second on the simulated one. Functions whose names begin with an
underscore are helpers.
"""

import argparse
import gc
import importlib.util
import inspect
import json
import os
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

import torch
import torch._dynamo  # 2 s, which each function's first optimizer would take

import profiler


def functions(path: Path) -> dict:
    """The program's own functions that take nothing, by name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == path.stem and not name.startswith("_")
    }


def took(function, simulated: str | None) -> dict:
    """Run it; what torch.cuda says afterwards, and what it printed is its own."""
    with profiler.simulated_gpu(simulated) if simulated else nullcontext():
        error = ""
        try:
            function()
        except Exception as raised:
            error = f"{type(raised).__name__}: {str(raised).splitlines()[0]}"
            if os.environ.get("TRACE"):
                traceback.print_exc()
        return {
            "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
            "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
            "error": error,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--simulated", metavar="GPU")
    options = parser.parse_args()
    gc.freeze()  # what is loaded is not looked through in each child
    for name, function in functions(options.file).items():
        if options.names and name not in options.names:
            continue
        sys.stdout.flush()
        child = os.fork()  # before this process has used the GPU
        if not child:
            sys.argv = [str(options.file)]
            result = took(function, options.simulated)
            print(json.dumps({"name": name, **result}), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
