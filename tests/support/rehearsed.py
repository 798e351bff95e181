"""The runs that the tests of the reference record on a simulated GPU."""

import os

from profiler.reference.suite import Case
from profiler.workload import Workload

MIB = 1 << 20
CASES = [
    Case(Workload("mlp-tiny", 32)),
    Case(Workload("gpt2-tiny", 2, 64, precision="amp_bf16"), attention_kernel="efficient"),
    Case(Workload("mlp-tiny", 32), limit_bytes=34 * MIB),  # a cuBLAS workspace takes 32 MiB
    Case(Workload("llama-tiny", 2, 64), attention_kernel="flash"),  # which wants 16 bits
]


def dies(*arguments: object) -> None:
    """Ends its process, as a driver that crashes does."""
    os._exit(7)
