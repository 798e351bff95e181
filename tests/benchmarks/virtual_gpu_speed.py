"""What a training step on the virtual GPU costs this machine, as ratios to limits: `python -m
tests.benchmarks.virtual_gpu_speed [gpt2 | 7b | 70b | 405b]`.

Each case is a program under `profiler on`, attribution included, on a card large enough. Seconds are those of
the program's processor, so that busy neighbours disturb them less, on the clock in brackets; resident is the
most that it had of this machine's memory. The step is the last of three.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from profiler.gpu.cards import find_gpu
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.runs.program import run_program
from profiler.units import format_bytes

GIB = 1 << 30
MOST_PROCESS_SECONDS, MOST_RESIDENT_BYTES = 10.0, 3 * GIB // 2
CARD = "30000 GiB"
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A model's configuration, batch and length, and the seconds that a step may take."""

    name: str
    config: str
    batch: int
    length: int
    most_step_seconds: float


def _llama(name: str, hidden: int, between: int, layers: int, heads: int, key_heads: int) -> Case:
    config = (
        f"LlamaConfig(vocab_size=32_000, hidden_size={hidden}, intermediate_size={between},"
        f" num_hidden_layers={layers}, num_attention_heads={heads}, num_key_value_heads={key_heads},"
        " use_cache=False, dtype=torch.bfloat16)"
    )
    return Case(name, config, 1, 2048, 0.5)


CASES = {
    "gpt2": Case("GPT-2 small", "GPT2Config(use_cache=False)", 8, 512, 0.1),
    "7b": _llama("Llama 7B", 4096, 11_008, 32, 32, 32),
    "70b": _llama("Llama 70B", 8192, 28_672, 80, 64, 8),
    "405b": _llama("Llama 405B", 16_384, 53_248, 126, 128, 8),
}

PROGRAM = """
import json, resource, sys, time
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
config = {config}
with torch.device("cuda"):
    model = AutoModelForCausalLM.from_config(config)
optimizer = torch.optim.AdamW(model.parameters())
for _ in range({steps}):
    clock, processor = time.perf_counter(), time.process_time()
    ids = torch.randint(0, config.vocab_size, ({batch}, {length}), device="cuda")
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
json.dump([processor, clock, time.process_time(), resident], open(sys.argv[1], "w"))
"""


def measure(case: Case) -> bool:
    """Run a case and print its figures; whether all are within their limits."""
    text = PROGRAM.format(config=case.config, steps=STEPS, batch=case.batch, length=case.length)
    with tempfile.TemporaryDirectory() as name:
        program, answer = Path(name) / "program.py", Path(name) / "answer.json"
        program.write_text(text)
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            watched = run_program(
                [sys.executable, str(program), str(answer)], VirtualGPUs(find_gpu(CARD)), stdout=sys.stderr
            )
        clock = time.perf_counter() - started
        if watched.exit_code:
            raise SystemExit(f"{case.name}: exit code {watched.exit_code}")
        step, step_clock, process, resident = json.loads(answer.read_text())
    peak = watched.processes[0].run.peak_allocated_bytes
    ratios = (
        step / case.most_step_seconds,
        process / MOST_PROCESS_SECONDS,
        resident / MOST_RESIDENT_BYTES,
    )
    print(
        f"{case.name:12} {case.batch} x {case.length}"
        f"  step {step:5.2f} s [{step_clock:5.2f}] x{ratios[0]:.2f}"
        f"  process {process:5.1f} s [{clock:5.1f} with reading] x{ratios[1]:.2f}"
        f"  resident {format_bytes(resident)} x{ratios[2]:.2f}  peak {format_bytes(peak)} allocated",
        flush=True,
    )
    return max(ratios) <= 1


def main() -> int:
    """Exit code 1 where a limit is missed."""
    print("ratios to the limits: 1 and less is within")
    return int(not all(list(map(measure, (CASES[name] for name in sys.argv[1:] or CASES)))))


if __name__ == "__main__":
    sys.exit(main())
