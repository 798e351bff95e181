"""Wall time of two simulated AdamW steps, as a fraction of the time they may take, and the host memory.

Run: python tests/benchmarks/simulation_speed.py
"""

import dataclasses
import resource
import time

import torch
import transformers

from profiler.gpus import GPUS
from profiler.simulation import simulated_gpu

CASES = {
    "GPT-2 124M, 8 x 512": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(),
        (8, 512),
        3.0,
    ),
    "Llama 2 7B, 1 x 4096": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(dtype=torch.bfloat16),
        (1, 4096),
        15.0,
    ),
}


def main() -> None:
    roomy = dataclasses.replace(GPUS["A100-80GB"], memory_bytes=1 << 40)
    for name, (model_class, config, shape, limit_seconds) in CASES.items():
        start = time.perf_counter()
        with simulated_gpu(roomy) as device:
            with device:
                model = model_class(config)
            optimizer = torch.optim.AdamW(model.parameters())
            ids = torch.zeros(shape, dtype=torch.long, device=device)
            for _ in range(2):
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            peak_gib = torch.cuda.max_memory_allocated() / 2**30
            del model, optimizer
        seconds = time.perf_counter() - start
        host_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ratio = seconds / limit_seconds
        print(f"{name}: {seconds:.2f} s, {ratio:.2f} of {limit_seconds:.0f} s; peak {peak_gib:.2f} GiB")
        print(f"  host memory so far: {host_mib:.0f} MiB")


if __name__ == "__main__":
    main()
