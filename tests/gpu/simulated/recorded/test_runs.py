"""The simulated step against traces of real CUDA runs: every request and every free, in order, to
the byte.
"""

import pytest
import torch

from profiler.gpu.cards import GPUS
from profiler.gpu.simulated.device import simulated_gpu
from tests.support.groundtruth import busiest_device, load, needs_snapshots, requests
from tests.support.recorded.transformer import AdamW, Transformer, cross_entropy

# 24 layers of width 1024, feed-forward 4096, 16 heads, vocabulary 10,000, batch 4; torch 2.11, recorded
# after warm-up.
VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, BATCH = 10_000, 1024, 24, 16, 4096, 4
# The traces that hold casts to 2-byte types.
HALF_PRECISION = {("training", 512), ("training", 1024), ("inference", 512)}


def recorded_sizes(length: int, kind: str) -> list[int]:
    snapshot = load(f"Wedsonlin+assignment2-systems/results__medium_{length}_{kind}_memory_snapshot")
    return list(requests(busiest_device(snapshot)))


@needs_snapshots
@pytest.mark.parametrize("length", [128, 256, 512, 1024])
def test_a_training_step_repeats_the_recorded_trace(length, ledger):
    with simulated_gpu(GPUS["A100-80GB"], observer=ledger) as device:
        model = Transformer(VOCABULARY, length, WIDTH, LAYERS, HEADS, HIDDEN).to(device)
        optimizer = AdamW(model.parameters())
        ids = torch.zeros(BATCH, length, dtype=torch.long, device=device)
        for _ in range(2):
            optimizer.zero_grad()
            logits = loss = None
            ledger.clear()
            with torch.autocast("cuda", torch.bfloat16, enabled=("training", length) in HALF_PRECISION):
                logits = model(ids)
                loss = cross_entropy(logits, ids)
            loss.backward()
            optimizer.step()
        step = list(ledger.events)
    assert len(step) > 12_000
    assert step == recorded_sizes(length, "training")


@needs_snapshots
@pytest.mark.parametrize("length", [128, 256, 512, 1024])
def test_an_inference_step_repeats_the_recorded_trace(length, ledger):
    with simulated_gpu(GPUS["A100-80GB"], observer=ledger) as device:
        model = Transformer(VOCABULARY, length, WIDTH, LAYERS, HEADS, HIDDEN).to(device)
        ids = torch.zeros(BATCH, length, dtype=torch.long, device=device)
        half = ("inference", length) in HALF_PRECISION
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=half):
            model(ids)
            ledger.clear()
            model(ids)
        step = list(ledger.events)
    assert len(step) > 2_500
    assert step == recorded_sizes(length, "inference")
