"""The verbs predict, replay and explain, end to end."""

import json
import os
import pickle
from pathlib import Path

import pandas as pd
import pytest

from profiler.cli import main
from profiler.gpu.cards import GPUS, find_gpu
from profiler.records import table as records
from profiler.records.comparison import compare
from profiler.runs.prediction import simulate, simulate_function
from profiler.verbs.explain import best_stretch, recorded_requests
from profiler.views.memory_viz import memory_viz
from profiler.workload import Workload
from tests.support.groundtruth import needs_snapshots, snapshot_path

SCRIPT = """
import torch
from torch import nn

def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 256, bias=False)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        loss = model(torch.ones(256, 1024, device=device)).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print("loss", loss.item())

def on(device):
    return torch.empty(3 * 2**20, device=device)

def fails():
    return undefined_name

def too_much():
    keep = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    return torch.empty(2**31, dtype=torch.uint8, device="cuda")
"""


FAULT = SCRIPT.splitlines().index("    return undefined_name") + 1


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train_something.py"
    path.write_text(SCRIPT)
    return path


def predict(capsys, *arguments):
    code = main(["predict", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_an_mlp_whose_bytes_are_counted_by_hand(capsys):
    code, report = predict(
        capsys, "mlp-tiny", "--batch", "8", "--optimizer", "sgd", "--gpu", "A100-40GB", "--steps", "1"
    )
    assert code == 0
    phases = {phase["phase"]: phase for phase in report["phases"]}
    # 64 × 256, 256 × 256, 256 × 10 and the biases, each rounded up to 512 bytes.
    weights = 65_536 + 1024 + 262_144 + 1024 + 10_240 + 512
    assert phases["model_loaded"]["allocated_bytes"] == weights
    # One small segment of 2 MiB serves all of them.
    assert phases["model_loaded"]["reserved_bytes"] == 2 << 20
    assert phases["model_loaded"]["fragmentation_at_peak_bytes"] == (2 << 20) - weights
    # Afterwards weights and two cuBLAS workspaces of 8.125 MiB, one a thread.
    workspaces = 2 * 8_519_680
    assert phases["step 1 zero_grad"]["allocated_bytes"] == weights + workspaces
    # The formula counts tensors: no rounding, no workspaces.
    assert phases["model_loaded"]["formula_bytes"] == 4 * (64 * 256 + 256 + 256 * 256 + 256 + 2560 + 10)
    peak = report["peak"]
    assert peak["categories"]["parameters"] == phases["model_loaded"]["formula_bytes"]
    assert sum(peak["categories"].values()) == peak["allocated_bytes"]
    assert sum(share["bytes"] for share in peak["modules"]) == peak["allocated_bytes"]
    assert peak["allocated_bytes"] == max(phase["peak_allocated_bytes"] for phase in report["phases"])
    assert peak["reserved_bytes"] - peak["allocated_bytes"] == peak["fragmentation_bytes"]


def test_a_users_script_finds_its_phases_and_lines(capsys, script):
    code, report = predict(capsys, "--loop", f"{script}:main", "--gpu", "A100-40GB")
    assert code == 0
    assert [phase["phase"] for phase in report["phases"]][:5] == [
        "model_loaded",
        "step 1 forward",
        "step 1 backward",
        "step 1 optimizer_step",
        "step 1 zero_grad",
    ]
    assert len(report["phases"]) == 9
    mib, workspace = 1 << 20, 8_519_680
    # Weights of 4 and 1 MiB and the input of 1 MiB, which is part of the phase before the forward.
    assert report["phases"][0]["allocated_bytes"] == 6 * mib
    # At its end the first layer's output, the input, and the loss; the second layer's output is gone.
    assert report["phases"][1]["allocated_bytes"] == 7 * mib + 512 + workspace
    assert {share["module"] for share in report["peak"]["modules"]} >= {"0", "1"}
    assert "train_something.py:" in report["peak"]["line"]


def test_a_function_may_take_the_device(script):
    simulation = simulate_function(f"{script}:on", find_gpu("1 GiB"))
    assert simulation.peak().allocated_bytes == 12 << 20


def test_what_does_not_fit_is_an_outcome_with_its_own_exit_code(capsys, script):
    code, report = predict(capsys, "--loop", f"{script}:too_much", "--gpu", "2 GiB")
    assert code == 3
    failed = report["out_of_memory"]
    assert (report["outcome"], failed["phase"], failed["op"]) == (
        "out_of_memory",
        "model_loaded",
        "aten::empty",
    )
    assert (failed["requested_bytes"], failed["allocated_bytes"], failed["reserved_bytes"]) == (
        1 << 31,
        1 << 30,
        1 << 30,
    )
    assert failed["line"].endswith("too_much")
    code = main(["predict", "--loop", f"{script}:too_much", "--gpu", "2 GiB"])
    assert code == 3
    assert "out of memory in model_loaded: aten::empty asked for 2.00 GiB" in capsys.readouterr().out


def test_running_out_in_a_workload_names_the_phase_and_the_module(capsys):
    code, report = predict(capsys, "gpt2-tiny", "--batch", "64", "--length", "512", "--gpu", "200 MiB")
    assert code == 3
    assert report["out_of_memory"]["phase"] == report["phases"][-1]["phase"]
    assert report["out_of_memory"]["module"]
    assert report["out_of_memory"]["reserved_bytes"] <= 200 << 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gpt2-tiny", "--gpu", "Z100"], "unknown GPU 'Z100'"),
        (["gpt5"], "unknown model 'gpt5'"),
        (["gpt2-tiny", "--length", "8", "--optimizer", "adamm"], "unknown optimizer 'adamm'"),
        (["gpt2-tiny", "--length", "0"], "needs a length"),
        (
            ["gpt2-tiny", "--length", "8", "--allocator-settings", "expandable:True"],
            "--allocator-settings: unknown",
        ),
        (["--loop", "{script}:nothing"], "has no function 'nothing'"),
        (
            ["--loop", "{script}:fails"],
            f"NameError: name 'undefined_name' is not defined (train_something.py:{FAULT})",
        ),
        (["--loop", "missing.py:main"], "missing.py does not exist"),
        (["--loop", "train.py"], "names no function"),
    ],
)
def test_mistakes_get_one_line(capsys, script, arguments, words):
    arguments = [argument.format(script=script) for argument in arguments]
    assert main(["predict", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_records_stand_beside_measured_ones(capsys, tmp_path):
    out = tmp_path / "out"
    arguments = ["predict", "mlp-tiny", "--batch", "4", "--gpu", "H100-80GB", "--output", str(out)]
    assert main(arguments) == 0
    assert main(arguments) == 0  # rows are appended
    table = records.read(out / "records.parquet")
    assert set(table["source"]) == {"simulation", "formula", "textbook"}
    assert set(table["device"]) == {"h100-80gb"}
    assert len(table) == 2 * 3 * 9
    for ending in ("png", "svg"):
        (figure,) = out.glob(f"timeline-*.{ending}")
        assert figure.stat().st_size > 10_000
    # A measured run of the same workload on that GPU joins with the prediction.
    simulated = table[table["source"] == "simulation"].head(9)
    measured = simulated.assign(source="measured", allocated_bytes=simulated["allocated_bytes"] + 512)
    compared = compare(pd.concat([simulated, measured]), "simulation")
    assert list(compared["difference_bytes"]) == 9 * [-512]


def test_expandable_segments_reserve_less():
    from profiler.gpu.allocator import AllocatorSettings

    workload, gpu = Workload("gpt2-tiny", 64, 256), GPUS["A100-40GB"]
    plain = simulate(workload, gpu)
    expandable = simulate(workload, gpu, AllocatorSettings.parse("expandable_segments:True"))
    assert [p.account.end_bytes for p in plain.phases] == [p.account.end_bytes for p in expandable.phases]
    assert max(expandable.reserved_bytes) < max(plain.reserved_bytes)


# --- snapshots -----------------------------------------------------------------------------------------

START = 0x7F0000000000


def snapshot(path, *requests, shift=0):
    """A recording of requests one after the other in one small segment; `shift` misplaces the last."""
    segment_bytes, blocks, events, address = 2 << 20, [], [], START
    events.append(
        {"action": "segment_alloc", "addr": START, "size": segment_bytes, "stream": 0, "frames": []}
    )
    for i, size in enumerate(requests):
        if i == len(requests) - 1 and shift:
            blocks.append({"address": address, "size": shift, "requested_size": 0, "state": "inactive"})
            address += shift
        rounded = -(-size // 512) * 512
        blocks.append(
            {"address": address, "size": rounded, "requested_size": size, "state": "active_allocated"}
        )
        frames = [{"filename": "/u/model.py", "line": 10 + i, "name": "forward"}]
        events.append({"action": "alloc", "addr": address, "size": size, "stream": 0, "frames": frames})
        address += rounded
    rest = START + segment_bytes - address
    blocks.append({"address": address, "size": rest, "requested_size": 0, "state": "inactive"})
    segment = {
        "device": 0,
        "address": START,
        "total_size": segment_bytes,
        "stream": 0,
        "segment_type": "small",
        "blocks": blocks,
    }
    path.write_bytes(pickle.dumps({"segments": [segment], "device_traces": [events]}))
    return str(path)


def test_replay_says_whether_it_is_exact(capsys, tmp_path):
    assert main(["replay", snapshot(tmp_path / "good", 100, 600)]) == 0
    assert "2 of 2" in capsys.readouterr().out
    assert main(["replay", snapshot(tmp_path / "bad", 100, 600, shift=1024)]) == 4
    assert "1 of 2" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [["replay"], ["explain", "--against", "mlp-tiny"]])
def test_files_that_are_no_snapshots_get_one_line(capsys, tmp_path, verb):
    empty = tmp_path / "empty"
    empty.write_bytes(pickle.dumps({"segments": [], "device_traces": []}))
    hostile = tmp_path / "hostile"
    hostile.write_bytes(pickle.dumps(os.getcwd))
    for path in (empty, hostile, tmp_path / "missing"):
        assert main([verb[0], str(path), *verb[1:]]) == 1
        error = capsys.readouterr().err
        assert str(path) in error
        assert len(error.splitlines()) == 1


def test_explain_names_what_the_simulation_lacks(capsys, tmp_path):
    """A simulation's own snapshot, with one allocation of 7000 bytes put in."""
    recorded = memory_viz(simulate(Workload("mlp-tiny", 4), GPUS["A100-40GB"]))
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
    recorded = recorded_requests(path)
    simulation = simulate_function(f"{script}:main", GPUS["A100-80GB"])
    requests, phases = best_stretch(simulation, recorded)
    assert phases.endswith("step 2 optimizer_step")
    assert [request.size_bytes for request in requests] == [request.size_bytes for request in recorded]
    # The recording itself says what it ran.
    assert sum("AccumulateGrad" in request.cause for request in recorded) > 100
