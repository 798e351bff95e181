"""The regression tests that hold the formula against real steps, in fresh processes.

On the CPU every level at the end of a phase is exact for every model and optimizer. Peaks: the formula
leaves out what lives only inside a phase (the gradients of activations, a loss's intermediate), so it is a
lower bound; the optimizer's temporaries are in it, up to the scalars that the for-loop wraps.
"""

import pandas as pd
import pytest
import torch

from profiler.device import Device
from profiler.records.comparison import compare
from profiler.records.table import frame
from profiler.reference.suite import TINY
from profiler.runs.rows import experiment_rows
from profiler.runs.run_settings import RunSettings
from profiler.workload import Workload

OPTIMIZERS = ("sgd", "momentum", "adam")
_SCALARS_BYTES = 16  # torch wraps Python numbers as tensors of 8 and 4 bytes while an op runs


def measure(workload: Workload, device_type: str, source: str = "formula") -> pd.DataFrame:
    return compare(frame(experiment_rows("test", workload, Device(device_type), RunSettings())), source)


@pytest.fixture(scope="module", params=TINY, ids=[name for name, _, _ in TINY])
def compared(request: pytest.FixtureRequest) -> dict[str, pd.DataFrame]:
    return {name: measure(Workload(*request.param, optimizer=name), "cpu") for name in OPTIMIZERS}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_level_is_exact(compared, optimizer):
    table = compared[optimizer]
    assert len(table) == 9
    assert table["difference_bytes"].tolist() == [0] * 9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_category_is_exact(compared, optimizer):
    columns = [
        c for c in compared[optimizer] if c.endswith("_difference_bytes") and not c.startswith("peak_")
    ]
    assert len(columns) == 9
    assert not compared[optimizer][columns].any().any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimizer_step_peak_is_exact_up_to_wrapped_scalars(compared, optimizer):
    steps = compared[optimizer].query("phase == 'optimizer_step'")["peak_difference_bytes"]
    assert steps.between(-_SCALARS_BYTES, 0).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_formula_never_says_more_than_the_peak(compared, optimizer):
    assert (compared[optimizer]["peak_difference_bytes"] <= 0).all()


def test_accumulation_is_exact_too():
    table = measure(Workload("gpt2-tiny", 1, 64, micro_batches=3), "cpu")
    assert len(table) == 1 + 2 * (3 * 2 + 2)
    assert not table["difference_bytes"].any()


@pytest.mark.parametrize("model", ["resnet-tiny", "vit-tiny"])
def test_images_with_channels_last_are_exact_too(model):
    table = measure(Workload(model, 4, 32, memory_format="channels_last"), "cpu")
    columns = [c for c in table if c.endswith("difference_bytes") and not c.startswith("peak_")]
    assert len(columns) == 10
    assert not table[columns].any().any()
    assert (table["peak_difference_bytes"] <= 0).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", TINY, ids=[name for name, _, _ in TINY])
def test_on_cuda_states_and_gradients_are_exact(model, optimizer):
    table = measure(Workload(*model, optimizer=optimizer), "cuda")
    for category in ("parameters", "gradients", "optimizer_states"):
        assert not table[f"{category}_difference_bytes"].any(), category
