"""What a training step takes of a GPU that is not there, end to end."""

import json

import pandas as pd
import pytest

from profiler import simulate
from profiler.cli import main
from profiler.device import SIMULATED, VIRTUAL, Device
from profiler.gpu.cards import GPUS, find_gpu
from profiler.gpu.device_used import in_total, process_terms
from profiler.records import table as records
from profiler.records.comparison import compare
from profiler.runs.user_loop import run_loop_on
from profiler.workload import Workload

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


def predict(capsys, engine, *arguments):
    code = main(["predict", *arguments, "--engine", engine, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_an_mlp_whose_bytes_are_counted_by_hand(capsys, engine):
    code, report = predict(
        capsys, engine, "mlp-tiny", "--batch", "8", "--optimizer", "sgd", "--gpu", "A100-40GB", "--steps", "1"
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


def test_a_users_script_finds_its_phases_and_lines(capsys, engine, script):
    code, report = predict(capsys, engine, "--loop", f"{script}:main", "--gpu", "A100-40GB")
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
    simulation = run_loop_on(f"{script}:on", Device(SIMULATED, find_gpu("1 GiB")))
    assert simulation.peak().allocated_bytes == 12 << 20


def test_what_does_not_fit_is_an_outcome_with_its_own_exit_code(capsys, engine, script):
    code, report = predict(capsys, engine, "--loop", f"{script}:too_much", "--gpu", "2 GiB")
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


def test_running_out_in_a_workload_names_the_phase_and_the_module(capsys, engine):
    code, report = predict(capsys, engine, "gpt2-tiny", "--batch", "256", "--length", "512", "--gpu", "1 GiB")
    assert code == 3
    assert report["out_of_memory"]["phase"] == report["phases"][-1]["phase"]
    assert report["out_of_memory"]["module"]
    assert report["out_of_memory"]["reserved_bytes"] <= 1 << 30


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gpt2-tiny", "--gpu", "Z100"], "unknown GPU 'Z100'"),
        (["gpt5"], "unknown model 'gpt5'"),
        (["gpt2-tiny", "--length", "8", "--optimizer", "adamm"], "unknown optimizer 'adamm'"),
        (["gpt2-tiny", "--length", "0"], "needs a length"),
        (
            ["gpt2-tiny", "--length", "8", "--allocator-settings", "expandable:True"],
            "allocator settings: unknown",
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


def test_records_stand_beside_measured_ones(engine, tmp_path):
    out = tmp_path / "out"
    arguments = ["predict", "mlp-tiny", "--batch", "4", "--gpu", "H100-80GB", "--output", str(out)]
    arguments += ["--engine", engine]
    assert main(arguments) == 0
    assert main(arguments) == 0  # rows are appended
    table = records.read(out / "records.parquet")
    assert set(table["source"]) == {"simulation", "formula", "textbook"}
    device = "virtual-nvidia-h100-80gb-hbm3" if engine == VIRTUAL else "h100-80gb"
    assert set(table["device"]) == {device}
    assert len(table) == 2 * 3 * 9
    for ending in ("png", "svg"):
        (figure,) = out.glob(f"timeline-*.{ending}")
        assert figure.stat().st_size > 10_000
    # A measured run of the same workload on that GPU joins with the prediction.
    simulated = table[table["source"] == "simulation"].head(9)
    measured = simulated.assign(source="measured", allocated_bytes=simulated["allocated_bytes"] + 512)
    compared = compare(pd.concat([simulated, measured]), "simulation")
    assert list(compared["difference_bytes"]) == 9 * [-512]


def test_expandable_segments_reserve_less(engine):

    workload, gpu = Workload("gpt2-tiny", 64, 256), GPUS["A100-40GB"]
    plain = simulate(workload, gpu, engine=engine)
    expandable = simulate(workload, gpu, "expandable_segments:True", engine)
    assert [p.account.end_bytes for p in plain.phases] == [p.account.end_bytes for p in expandable.phases]
    assert max(expandable.reserved_bytes) < max(plain.reserved_bytes)


def test_what_nvidia_smi_would_show(capsys) -> None:
    assert main(["predict", "mlp-tiny", "--batch", "64", "--gpu", "T4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    used = report["device_used"]
    reserved_bytes = max(phase["peak_reserved_bytes"] for phase in report["phases"])
    context = in_total(process_terms(GPUS["T4-16GB"]))
    assert [term["name"] for term in used["terms"]] == [
        "reserved by PyTorch",
        "CUDA context",
        "kernels and library handles",
    ]
    assert used["low_bytes"] == reserved_bytes + context.low_bytes
    assert used["typical_bytes"] == reserved_bytes + context.typical_bytes
    assert used["high_bytes"] == reserved_bytes + context.high_bytes


def test_it_is_said_with_its_parts(capsys) -> None:
    assert main(["predict", "mlp-tiny", "--batch", "64", "--gpu", "T4"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "nvidia-smi would show about" in said
    assert "reserved by PyTorch" in said
    assert "CUDA context" in said


def test_the_formulas_terms_are_shown_and_add_up(capsys) -> None:
    workload = ["predict", "mlp-tiny", "--batch", "64", "--gpu", "A100-40GB", "--steps", "1"]
    assert main([*workload, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for phase, simulated in zip(report["formula"], report["phases"], strict=True):
        assert phase["phase"] == simulated["phase"]
        for moment, level in (("end", "formula_bytes"), ("peak", "formula_peak_bytes")):
            alive = [t["size_bytes"] for t in phase["terms"] if moment in t["alive_at"].split()]
            assert sum(alive) == phase[f"{moment}_bytes"] == simulated[level]
    assert main([*workload, "--terms"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    # 64 × 256 + 256 × 256 + 256 × 10 weights and 256 + 256 + 10 biases, and two moments of each.
    assert "optimizer states 2 × 4 B × 85,002 states 680,016 end and peak torch/optim/adam.py" in said


def test_a_loop_has_no_terms(capsys) -> None:
    assert main(["predict", "--loop", "train.py:main", "--terms"]) == 1
    assert "--terms is for a model" in capsys.readouterr().err


def test_a_loss_that_is_printed_is_said_to_be_no_loss(script, engine, capsys):
    code, report = predict(capsys, engine, "--loop", f"{script}:main", "--gpu", "A100-40GB")
    assert code == 0
    (words,) = report["rests_on"]
    line = SCRIPT.splitlines().index('        print("loss", loss.item())') + 1
    assert f"{script}:{line}" in words
    assert "(2; a number that falls" in words
    assert report["peak_reserved_bytes"] == max(phase["peak_reserved_bytes"] for phase in report["phases"])


def test_what_is_trained_is_said_first(capsys):
    assert main(["predict", "openai/whisper-tiny", "--batch", "1", "--length", "8", "--steps", "1"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("openai/whisper-tiny")
    assert "37,760,640 parameters; WhisperForConditionalGeneration" in second
