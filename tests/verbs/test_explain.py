"""What a recording has that its simulation has not, allocation by allocation."""

import pickle
from pathlib import Path

from profiler import simulate
from profiler.cli import main
from profiler.device import SIMULATED, Device
from profiler.gpu.cards import GPUS
from profiler.runs.user_loop import run_loop_on
from profiler.verbs.explain import best_stretch, recorded_requests
from profiler.views.memory_viz import memory_viz
from profiler.workload import Workload
from tests.support.groundtruth import needs_snapshots, snapshot_path


def test_explain_names_what_the_simulation_lacks(capsys, tmp_path):
    """A simulation's own snapshot, with one allocation of 7000 bytes put in."""
    recorded = memory_viz(simulate(Workload("mlp-tiny", 4), GPUS["A100-40GB"], engine="simulated"))
    (trace,) = recorded["device_traces"]
    asked = sum(event["action"] == "alloc" for event in trace)
    frames = [{"filename": "/u/model.py", "line": 11, "name": "forward"}]
    extra = {"action": "alloc", "addr": 1 << 40, "size": 7000, "stream": 0, "frames": frames}
    recorded["device_traces"] = [[*trace[:100], extra, *trace[100:]]]
    path = tmp_path / "a"
    path.write_bytes(pickle.dumps(recorded))
    assert main(["explain", str(path), "--against", "mlp-tiny", "--batch", "4"]) == 0
    out = capsys.readouterr().out
    assert "model.py:11 forward" in out
    last = out.splitlines()[-1]
    assert last.startswith(f"{asked:,} of {asked + 1:,} allocations aligned (of {asked:,} in the simulated")
    assert last.endswith("unexplained 7,000 bytes")


@needs_snapshots
def test_explain_aligns_a_recorded_training_step_whole(tmp_path):
    root = Path(__file__).parents[3]
    script = tmp_path / "recorded.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(root)!r})
import torch
from tests.support.recorded.transformer import AdamW, Transformer, cross_entropy

def main(device):
    model = Transformer(10_000, 128, 1024, 24, 16, 4096).to(device)
    optimizer = AdamW(model.parameters())
    ids = torch.zeros(4, 128, dtype=torch.long, device=device)
    for _ in range(2):
        optimizer.zero_grad()
        logits = loss = None
        logits = model(ids)
        loss = cross_entropy(logits, ids)
        loss.backward()
        optimizer.step()
"""
    )
    path = snapshot_path("Wedsonlin+assignment2-systems/results__medium_128_training_memory_snapshot")
    recorded, _ = recorded_requests(path)
    simulation = run_loop_on(f"{script}:main", Device(SIMULATED, GPUS["A100-80GB"]))
    requests, phases = best_stretch(simulation, recorded)
    assert phases.endswith("step 2 optimizer_step")
    assert [request.size_bytes for request in requests] == [request.size_bytes for request in recorded]
    # The recording itself says what it ran.
    assert sum("AccumulateGrad" in request.cause for request in recorded) > 100
