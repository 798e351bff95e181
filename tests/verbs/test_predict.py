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
