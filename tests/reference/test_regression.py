"""Predictions against recordings on GPUs, for ever: no error beyond its quantity's bound.

`bounds.json` holds the bounds: `profiler compare-reference FOLDER --tighten tests/reference/bounds.json`
sets and never loosens them. Without a recording on a GPU there is nothing to hold predictions against, and
the tests that need one say so. The machinery is tested all the same, with runs on a simulated GPU in the
recording's place.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from profiler.device import Device
from profiler.reference import accuracy, campaign
from profiler.reference.accuracy import QUANTITIES, RUN_QUANTITIES
from profiler.reference.archive import Archive, gpu_recordings, read_recording
from profiler.reference.bounds import Bound, broken, read_bounds
from profiler.reference.campaign import Campaign, record_suite
from profiler.reference.engines import compare_engines
from profiler.reference.predictions import predict, predict_probes
from profiler.reference.suite import Case
from profiler.reference.unmatched import compare_probes, residual
from profiler.trace.load import read_run
from profiler.workload import Workload
from tests.support.rehearsed import CASES

ROOT = Path(__file__).parents[2]
BOUNDS = Path(__file__).parent / "bounds.json"
ALL = gpu_recordings(ROOT / "results")
VIRTUAL = [folder for folder in ALL if folder.parent.name.startswith("virtual-")]
RECORDINGS = [folder for folder in ALL if folder not in VIRTUAL]
EVERY = 3  # of the recorded tiny runs, which is enough to see every axis; `profiler compare` takes all
EXACT = dict.fromkeys([*QUANTITIES, *RUN_QUANTITIES], Bound(0.0, 0.0))


def check(errors: pd.DataFrame, bounds: dict[str, Bound]) -> None:
    simulated = errors[errors["source"] == "simulation"]
    unbounded = set(simulated["quantity"]) - bounds.keys()
    assert not unbounded, (
        f"no bound for {unbounded}: run `profiler compare-reference ... --tighten {BOUNDS.name}`"
    )
    outside = broken(simulated, bounds)
    assert outside.empty, outside[["workload", "step", "phase", "quantity", "difference_percent"]].to_string()


def errors_of(recording: Archive, keys: list[str], traces: Path) -> pd.DataFrame:
    return accuracy.differences(recording.records, predict(recording, keys, traces))


@pytest.mark.parametrize("folder", VIRTUAL, ids=lambda folder: folder.parent.name)
def test_the_simulation_asks_for_what_a_virtual_gpu_was_asked_for(folder, tmp_path):
    """Every twelfth tiny run, request by request; convolutions' workspaces apart, which are not modelled."""
    recording = read_recording(folder)
    if not recording.about["torch_version"].startswith(torch.__version__.split("+")[0]):
        pytest.skip(
            f"recorded with torch {recording.about['torch_version']}, installed is {torch.__version__}"
        )
    tiny = {key: case for key, case in recording.cases.items() if case.workload.model.endswith("-tiny")}
    chosen = replace(recording, cases=dict(list(tiny.items())[:: 4 * EVERY]))
    found = compare_engines(chosen, tmp_path)
    assert found.holds, (found.changes, found.otherwise)
    assert found.runs >= 5


@pytest.mark.skipif(not RECORDINGS, reason="no recording on a GPU in results/*/reference yet")
@pytest.mark.parametrize("folder", RECORDINGS or [None], ids=lambda folder: folder and folder.parent.name)
def test_the_simulation_keeps_its_bounds_on_recorded_runs(folder, tmp_path):
    recording = read_recording(folder)
    tiny = [key for key, case in recording.cases.items() if case.workload.model.endswith("-tiny")]
    assert tiny
    check(errors_of(recording, tiny[::EVERY], tmp_path), read_bounds(BOUNDS))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.skipif(not read_bounds(BOUNDS), reason="no bounds until a recording has set them")
def test_the_simulation_keeps_its_bounds_on_runs_recorded_now(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "cases", lambda size: CASES)
    recording = read_recording(record_suite(Campaign(Device("cuda"), tmp_path, "small")).folder)
    check(errors_of(recording, list(recording.cases), tmp_path), read_bounds(BOUNDS))


@pytest.fixture(scope="module")
def predicted(rehearsal, tmp_path_factory) -> tuple[pd.DataFrame, Path]:
    traces = tmp_path_factory.mktemp("traces")
    return predict(rehearsal[0], list(rehearsal[0].cases), traces), traces


def test_a_simulation_is_the_same_twice(rehearsal, predicted):
    errors = accuracy.differences(rehearsal[0].records, predicted[0])
    simulated = errors[errors["source"] == "simulation"]
    # Two whole runs of nine phases and, of the one out of memory, the two that ended; four quantities each.
    assert simulated["quantity"].value_counts().to_dict() == {
        **dict.fromkeys(QUANTITIES, 9 + 9 + 2),
        **dict.fromkeys(RUN_QUANTITIES, 2),
    }
    check(errors, EXACT)


def test_on_the_cpu_the_formula_has_each_level_to_the_byte(tmp_path, monkeypatch):
    cases = [
        Case(Workload("llama-tiny", 2, 64, precision="bf16"), attention_kernel="math"),  # not torch's choice
        Case(Workload("resnet-tiny", 3, 45, memory_format="channels_last")),
    ]
    monkeypatch.setattr(campaign, "cases", lambda size: cases)
    recording = read_recording(record_suite(Campaign(Device("cpu"), tmp_path, "small")).folder)
    errors = errors_of(recording, list(recording.cases), tmp_path)
    levels = errors[(errors["source"] == "formula") & (errors["quantity"] == "allocated")]
    assert levels["difference_bytes"].tolist() == [0] * 18


@pytest.mark.parametrize("factor", [1.01, 0.99])
@pytest.mark.parametrize("quantity", list(QUANTITIES))
def test_an_error_of_one_percent_is_caught(rehearsal, predicted, quantity, factor):
    column = QUANTITIES[quantity]
    planted = rehearsal[0].records.copy()
    row = planted.index[planted["phase"] == "optimizer_step"][0]
    planted.loc[row, column] = round(planted.loc[row, column] * factor)
    errors = accuracy.differences(planted, predicted[0])
    half_a_percent = dict.fromkeys(EXACT, Bound(0.5, 0.5))
    with pytest.raises(AssertionError, match="optimizer_step"):
        check(errors, half_a_percent)
    check(errors, dict.fromkeys(EXACT, Bound(1.1, 1.1)))


def test_a_quantity_without_a_bound_is_an_error(rehearsal, predicted):
    errors = accuracy.differences(rehearsal[0].records, predicted[0])
    with pytest.raises(AssertionError, match="no bound"):
        check(errors, {})


def test_traces_of_one_run_align_in_full(rehearsal, predicted):
    recording, traces = rehearsal[0], predicted[1]
    measured = {key: recording.trace(key) for key in recording.cases}
    assert sum(trace is not None for trace in measured.values()) == 3  # all but the impossible run
    for key, trace in measured.items():
        if trace is None:
            continue
        found = residual(trace, read_run(traces / f"{key}.parquet").entries)
        assert found.explanation.aligned == found.explanation.first_total == found.explanation.second_total
        assert (found.named, found.unnamed) == ((), 0)


def test_probes_of_one_gpu_are_the_same_twice_and_differ_on_another(rehearsal):
    recording = rehearsal[0]
    compared = compare_probes(recording.probes(), predict_probes(recording))
    assert len(compared) == 27
    assert compared["exact"].all()
    planted = recording.probes()
    row = planted.index[planted["operation"] == "column_sum"][0]
    planted.loc[row, "requested_bytes"] += 4
    (wrong,) = compare_probes(planted, predict_probes(recording)).query("not exact").to_dict("records")
    assert wrong["operation"] == "column_sum"
    assert wrong["measured"][0] == wrong["predicted"][0] + 4
