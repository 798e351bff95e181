"""The largest batch of six models on two GPUs, and what finding it takes.

    python tests/benchmarks/largest_batch.py            # the table
    python tests/benchmarks/largest_batch.py --whole    # and a 7B model's whole answer

Each answer is put to the proof by two simulations of its own, with the GPU's memory: the batch fits, and one
more does not. The ratio is the time of the answer to that of one simulation at its end.
"""

import sys
import time

from profiler.advice.fit import Question, fit
from profiler.gpu.cards import find_gpu
from profiler.workload import Workload
from tests.support.runs import simulated_apart

MODELS = (
    ("gpt2", 1024),
    ("bert-large", 512),
    ("llama-1b", 2048),
    ("vit-b16", 224),
    ("resnet50", 224),
    ("T5Config", 512),
)
GPUS = ("A100-40GB", "H100-80GB")
START = 8  # the batch that is asked about; the search goes on from there


def row(model, length, gpu_name):
    gpu = find_gpu(gpu_name)
    workload = Workload(model, START, length)
    started = time.perf_counter()
    found = fit(workload, gpu, Question(with_techniques=False))
    seconds = time.perf_counter() - started
    largest, usable_bytes = found.largest, found.usable_bytes
    fits = simulated_apart(Workload(model, largest.fits, length), gpu, usable_bytes).fits
    started = time.perf_counter()
    too_large = not simulated_apart(Workload(model, largest.fits + 1, length), gpu, usable_bytes).fits
    one = time.perf_counter() - started
    retries = largest.run.retries
    print(
        f"{model:12}{length:6}  {gpu_name:11}{largest.fits:6}{'*' if retries else ' '} "
        f"{'yes' if fits else 'NO':>5}{'no' if too_large else 'YES':>12}{found.simulations:12}"
        f"{seconds:9.1f}{seconds / one:8.1f}",
        flush=True,
    )
    return fits and too_large and largest.exact


def whole_answer():
    """Verdict, largest batch and every technique of Llama 7B, which is what LlamaConfig() describes."""
    gpu = find_gpu("H200")
    started = time.perf_counter()
    found = fit(Workload("LlamaConfig", 1, 2048), gpu)
    seconds = time.perf_counter() - started
    print(
        f"LlamaConfig ({found.run.parameters:,} parameters), 1 x 2048 on {gpu.name}, all of `profiler fit`: "
        f"{found.verdict}, largest batch {found.largest.fits}, {len(found.techniques)} techniques, "
        f"{found.simulations} simulations, {seconds:.1f} s"
    )


def main():
    print(
        "model       length  GPU        largest  fits  one more?  simulations  seconds   ratio   (* retries)"
    )
    proved = [row(model, length, gpu) for model, length in MODELS for gpu in GPUS]
    print(f"{sum(proved)} of {len(proved)} exact")
    if "--whole" in sys.argv:
        whole_answer()
    return 0 if all(proved) else 1


if __name__ == "__main__":
    sys.exit(main())
