"""The formula against the simulated GPU: two predictions that share the model's code and nothing else.

One adds up terms, the other replays every allocation of the real training step. On every technique, levels
differ by nothing but what the formula does not speak of: kernels' workspaces, and rounding to 512 bytes.
"""

import pandas as pd
import pytest

from profiler.device import SIMULATED, Device
from profiler.gpu.cards import GPUS
from profiler.records.comparison import compare, side_by_side, silent_categories
from profiler.records.table import frame
from profiler.runs.rows import experiment_rows
from profiler.runs.run_settings import RunSettings
from profiler.workload import CHECKPOINTING, OPTIMIZERS, PRECISIONS, Workload

A100 = GPUS["A100-40GB"]
CUBLAS_WORKSPACE_BYTES = 8_519_680  # aten/src/ATen/cuda/CUDABlas.cpp: 4096 × 2 KiB and 16 × 8 KiB

GRID = [
    *(Workload("gpt2-tiny", 1, 32, optimizer=optimizer) for optimizer in OPTIMIZERS),
    *(Workload("vit-tiny", 2, 32, optimizer_implementation=i) for i in ("forloop", "fused")),
    *(Workload("bert-tiny", 2, 64, precision=precision) for precision in PRECISIONS[1:]),
    *(Workload("bert-tiny", 2, 64, attention="eager", checkpointing=c, layers=5) for c in CHECKPOINTING),
    Workload("resnet-tiny", 2, 32, "adamw8bit"),
    Workload("gpt2", 1, 16, "paged_adamw8bit", layers=1),  # its matrices are large enough to be paged
    Workload("llama-tiny", 1, 64, checkpointing="sqrt", micro_batches=2, layers=5),
    Workload("llama-tiny", 1, 64, precision="amp_bf16", checkpointing="selective", micro_batches=2),
    Workload("gpt2-tiny", 1, 64, "adafactor", precision="fp16_master", checkpointing="every_layer"),
]
_SCALARS_BYTES = 24  # numbers that torch wraps as tensors while an op runs


def records_of(workload: Workload) -> pd.DataFrame:
    return frame(experiment_rows("test", workload, Device(SIMULATED, A100), RunSettings()))


@pytest.fixture(scope="module", params=GRID, ids=str)
def records(request: pytest.FixtureRequest) -> pd.DataFrame:
    return records_of(request.param)


def beside(compared: pd.DataFrame, prefix: str = "") -> pd.Series:
    """The differences without what the formula does not speak of."""
    silent = [f"{prefix}{name}_difference_bytes" for name in ("workspaces", "rounding")]
    return compared[f"{prefix}difference_bytes"] - compared[silent].sum(axis=1)


def test_levels_differ_by_workspaces_and_rounding_only(records):
    assert {"workspaces", "rounding"} <= set(silent_categories(records, "formula"))
    compared = compare(records, truth="simulation")
    assert len(compared) == records.query("source == 'formula'").shape[0]
    assert beside(compared).tolist() == [0] * len(compared)
    workspaces = compared["workspaces_difference_bytes"]
    assert (workspaces % CUBLAS_WORKSPACE_BYTES == 0).all()
    assert workspaces.iloc[-1] == -2 * CUBLAS_WORKSPACE_BYTES  # one for the main thread, one for autograd's


def test_peaks_are_never_below_the_formula_and_close_in_the_steady_state(records):
    compared = compare(records, truth="simulation").query("step == 2")
    residual = compared["peak_difference_bytes"] - compared["peak_workspaces_difference_bytes"]
    assert (residual <= 8).all()  # the scalars of a micro-batch's loss
    unrounded = beside(compared, "peak_").astype(float) / compared["run_peak_bytes"].astype(float)
    assert (unrounded >= -0.10).all()


def test_the_step_is_exact_up_to_scalars_and_so_is_the_forward_pass_to_a_vocabulary(records):
    """A convolution's forward pass peaks inside: before the batch norm's input is let go."""
    phases = ["optimizer_step", "zero_grad"]
    if records["model"].iloc[0] != "resnet-tiny":
        phases.append("forward")
    compared = compare(records, truth="simulation").query("step == 2")
    exact = compared[compared["phase"].isin(phases)]
    assert beside(exact, "peak_").between(-_SCALARS_BYTES, 8).all()


def test_one_row_a_phase_names_where_the_peaks_differ():
    table = side_by_side(records_of(Workload("mlp-tiny", 4)))
    assert len(table) == 9
    assert table["measured_bytes"].isna().all()
    loaded = table.iloc[0]
    # 256·64 + 256 + 256² + 256 + 256·10 + 10 weights; 40 B of the last bias take 512.
    assert loaded["formula_bytes"] == loaded["textbook_bytes"] == 4 * 85_002
    assert loaded["simulation_bytes"] == 4 * 85_002 + 472
    assert loaded["peak_difference"] == "rounding -472"
    assert (table["simulation_peak_reserved_bytes"] >= table["simulation_peak_bytes"]).all()
