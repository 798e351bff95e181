"""The verdict and the verb, on simulations small enough to check by hand."""

import json
from dataclasses import replace

import pytest

import profiler
from profiler.advice.fit import DOES_NOT_FIT, FITS, TIGHT, Question, fit
from profiler.advice.techniques import TECHNIQUES, applicable
from profiler.cli import main
from profiler.device import SIMULATED, VIRTUAL
from profiler.errors import ProfilerError
from profiler.gpu.cards import GPUS, MIB, UNLIMITED_BYTES
from profiler.runs.engine import why_not_virtual
from profiler.trace import ledger
from profiler.trace.events import Allocation, Mark
from profiler.trace.phase import BACKWARD, FORWARD, Phase
from profiler.trace.run import OutOfMemory, PhaseMeasurement, Run, phases_told_by
from profiler.workload import Workload
from tests.support.runs import run_of, simulated_apart

FIRST = Phase(1, FORWARD)

ONLY = Question(context_bytes=100 * MIB, with_largest=False, with_techniques=False)
GPU_1000 = replace(GPUS["A100-40GB"], memory_bytes=1000 * MIB)


def takes(reserved_bytes: int, least_bytes: int | None = None):
    """A run that reserves so much, and can do with `least_bytes` if the allocator gives its cache back."""

    def run(workload: Workload, memory_bytes: int) -> Run:
        limited = memory_bytes < UNLIMITED_BYTES
        fits = (least_bytes or reserved_bytes) <= memory_bytes
        reserved = min(reserved_bytes, memory_bytes)
        entries = [Allocation(512, reserved, reserved), Mark(FIRST, {})]
        (phase,) = phases_told_by(entries, [reserved, reserved])
        phase = replace(phase, memory_stats={**phase.memory_stats, "num_alloc_retries": int(limited)})
        stopped = None if fits else OutOfMemory(FIRST, "out of memory", None)
        return run_of(entries, phases=(phase,), workload=workload, out_of_memory=stopped, parameters=1)

    return run


@pytest.mark.parametrize(
    ("reserved", "least", "verdict", "headroom"),
    [
        (500, None, FITS, 400),
        (799, None, FITS, 101),
        (800, None, TIGHT, 100),  # with the context 900 of 1000 MiB
        (900, None, TIGHT, 0),
        (901, None, DOES_NOT_FIT, -1),
        (950, 890, TIGHT, 0),  # only because cached memory is given back
    ],
)
def test_the_verdict_counts_the_context(reserved, least, verdict, headroom):
    run = takes(reserved * MIB, least * MIB if least else None)
    answer = fit(Workload("mlp", 1), GPU_1000, ONLY, run)
    assert answer.verdict == verdict
    assert answer.headroom_bytes == headroom * MIB


def test_two_together_are_tried_where_none_fits_alone():
    needs = {"precision": ("fp32", 600), "optimizer": ("adam", 700), "checkpointing": ("none", 10)}

    def run(workload: Workload, memory_bytes: int) -> Run:
        saved = sum(size for name, (plain, size) in needs.items() if getattr(workload, name) != plain)
        return takes((2000 - saved) * MIB)(workload, memory_bytes)

    question = replace(ONLY, with_techniques=True)
    answer = fit(Workload("gpt2", 8, 512), GPU_1000, question, run)  # 900 MiB are usable
    assert answer.verdict == DOES_NOT_FIT
    fitting = {result.name for result in answer.techniques if result.fits_in(answer.usable_bytes)}
    assert "everything in bfloat16 + SGD with momentum" in fitting
    assert all(" + " in name for name in fitting)
    assert answer.techniques[0].saved_reserved_bytes == 1300 * MIB
    enough = fit(Workload("gpt2", 8, 512), replace(GPU_1000, memory_bytes=1600 * MIB), question, run)
    assert all(len(result.techniques) == 1 for result in enough.techniques)


def test_each_technique_changes_a_plain_workload_and_is_not_offered_twice():
    plain = Workload("gpt2", 8, 512)
    offered = applicable(plain)
    assert {technique.name for technique, _ in offered} == {t.name for t in TECHNIQUES} - {"fused attention"}
    for technique, changed in offered:
        assert changed != plain
        again = technique.apply(changed)
        assert again is None or technique.name.startswith("half")
    assert all(technique.name != "Adafactor" for technique, _ in applicable(replace(plain, optimizer="sgd")))


@pytest.fixture
def command(capsys):
    """The verb in this process, whose runs have a server that is warm: exit code, output, errors."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["fit", *words])
        return code, *capsys.readouterr()

    return run


def test_both_engines_give_one_answer_in_json_and_its_largest_batch_is_the_largest(command):
    """Of a model whose kernels take nothing beside their results but the workspaces that both know."""
    words = ("--batch", "4096", "--gpu", "128MiB", "--context", "20MiB", "--no-techniques", "--json")
    code, out, err = command("mlp-tiny", *words, "--engine", SIMULATED)
    assert code == 0, err
    answer = json.loads(out)
    # 64·256 + 256 + 256·256 + 256 + 256·10 + 10 parameters.
    assert answer["parameters"] == 85_002
    assert answer["verdict"] == "fits"
    assert answer["usable_bytes"] == 108 * MIB
    largest = answer["largest_batch"]
    assert largest["fits"] > 4096
    # Held against simulations of its own: that batch runs, and the first that does not fit stops.
    for batch, fits in ((largest["fits"], True), (largest["does_not_fit"], False)):
        run = simulated_apart(Workload("mlp-tiny", batch), memory_bytes=108 * MIB)
        assert run.fits == fits
    code, out, err = command("mlp-tiny", *words, "--engine", VIRTUAL)
    if why_not_virtual():
        assert why_not_virtual() in err
        return
    apart = {"engine": "", "rests_on": [], "peak_op": ""}  # a rule names what a kernel allocates beside
    assert {**json.loads(out), **apart} == {**answer, **apart}


def test_a_model_that_does_not_fit_is_exit_code_3_and_says_where_it_stops(command):
    code, out, _ = command("mlp", "--batch", "64", "--gpu", "400MiB", "--context", "0MiB", "--no-techniques")
    assert code == 3
    # 144.2 MiB of parameters: gradients make 288, Adam's states 577.
    assert out.startswith("DOES NOT FIT  mlp, batch 64, adam on a ")
    assert "runs out of memory in step 1 optimizer_step" in out
    assert "not even batch 1 fits" in out


def test_an_error_of_the_users_code_is_one_line_with_its_place(command, tmp_path, monkeypatch):
    script = "import torch\ndef broken():\n    layer = torch.nn.Linear(8, 8)\n    return layer.wieght\n"
    (tmp_path / "mine.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    code, out, err = command("mine.py:broken", "--batch", "1")
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1
    assert "wieght" in err
    assert "mine.py:4" in err


def test_a_process_that_dies_is_reported(command, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import os\ndef broken():\n    os._exit(7)\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = command("mine.py:broken", "--batch", "1")
    assert code == 1
    assert "exit code 7" in err


def test_a_gpu_that_nobody_makes_is_said_in_words(command):
    code, _, err = command("mlp", "--batch", "1", "--gpu", "Z900")
    assert code == 1
    assert "unknown GPU 'Z900'" in err


# --- measuring -----------------------------------------------------------------------------------------

ONE_LAYER = """
import torch
def make_model():
    return torch.nn.Linear(1024, 1024, bias=False)
def make_batch(batch, length, device):
    return torch.randn(batch, 1024, device=device)
def compute_loss(model, batch):
    return model(batch).sum()
"""


def test_what_is_measured_here_is_the_weight_its_gradient_and_a_little(tmp_path):
    """The path of --verify on the device that is always there: 4 MiB of weight and as much of gradient; input
    and output are 4 KiB each."""
    (tmp_path / "mine.py").write_text(ONE_LAYER)
    measured = profiler.measure(Workload(f"{tmp_path / 'mine.py'}:make_model", 1, optimizer="sgd"), "cpu")
    assert 8 * MIB < measured.peak_allocated_bytes < 8 * MIB + 64 * 1024
    assert str(measured.highest_phase.account.phase) == "step 1 backward"
    assert measured.peak_reserved_bytes is None
    assert measured.out_of_memory is None
    assert measured.provenance["device_name"]
    with pytest.raises(ProfilerError, match=r"no function 'missing'"):
        profiler.measure(Workload(f"{tmp_path / 'mine.py'}:missing", 1), "cpu")


def test_verify_without_a_gpu_is_said_at_once(command):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, err = command("mlp-tiny", "--batch", "4", "--verify")
    assert code == 1
    assert "no CUDA device" in err
    assert err.count("\n") == 1


@pytest.mark.cuda
def test_verify_prints_measured_beside_predicted(command):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    code, out, err = command("mlp", "--batch", "64", "--verify", "--json", "--no-largest", "--no-techniques")
    assert code == 0, err
    answer = json.loads(out)
    measured = answer["measured"]
    assert measured["device_name"] == torch.cuda.get_device_name()
    # 144.2 MiB of weights, as much of gradients, twice as much of states; cuBLAS' workspace differs by GPU.
    assert measured["peak_allocated_bytes"] > 4 * 4 * 37_801_994
    assert measured["peak_allocated_bytes"] == pytest.approx(answer["peak_allocated_bytes"], rel=0.05)


def test_measured_peaks_are_printed_beside_the_predicted_ones(capsys):
    from rich.console import Console

    from profiler.verbs.fit import _print_measured

    answer = fit(Workload("mlp", 1), GPU_1000, ONLY, takes(500 * MIB))
    levels = {"allocated_bytes.all.peak": 400 * MIB, "reserved_bytes.all.peak": 500 * MIB}
    (account,) = ledger.account([Mark(Phase(2, BACKWARD), {})])
    measured = run_of(
        (),
        phases=(PhaseMeasurement(account, memory_stats=levels),),
        provenance={"device_name": "NVIDIA T4"},
    )
    _print_measured(answer, measured, Console(width=100))
    out = capsys.readouterr().out
    assert "on NVIDIA T4, the peak in step 2 backward" in out
    assert "allocated 400.00 MiB, predicted 500.00 MiB (+25.00 %)" in out
    assert "reserved 500.00 MiB, predicted 500.00 MiB (+0.00 %)" in out


# Floats of a factored second moment: rows and columns of 64 x 256, 256 x 256 and 256 x 10; the vectors whole.
FACTORED = (64 + 256) + (256 + 256) + (256 + 10) + (256 + 256 + 10)


@pytest.mark.parametrize(
    ("optimizer", "states_bytes"),
    [
        # Tensors of 4096 elements or more: two moments of a byte each, a float for each block of 256 of
        # either; the rest in fp32; and two maps of 256 floats (bitsandbytes).
        ("adamw8bit", 2 * 81_920 + 2 * 4 * 320 + 2 * 4 * 3082 + 2 * 256 * 4),
        ("adafactor", 4 * FACTORED),
        ("adafactor_transformers", 4 * FACTORED + 6 * 4),  # and each tensor's RMS
    ],
)
def test_optimizers_with_small_states_are_simulated(optimizer, states_bytes):
    run = simulated_apart(Workload("mlp-tiny", 4096, optimizer=optimizer))
    assert run.peak().phase.step == 2
    assert run.by_category()["optimizer_states"] == states_bytes
