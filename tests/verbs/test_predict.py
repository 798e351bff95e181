"""What `profiler predict` says beside the simulation."""

import json

from profiler.cli import main
from profiler.gpu.cards import GPUS
from profiler.gpu.device_used import in_total, process_terms


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
