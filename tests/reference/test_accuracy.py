"""Differences, their spread and their bounds, against numbers worked out by hand."""

from pathlib import Path

import pandas as pd
import pytest

from profiler.recording.cuda import _ledger_entries
from profiler.records.table import frame
from profiler.reference import accuracy, bounds
from profiler.reference.accuracy_page import CLAIMS, Result, accuracy_page
from profiler.reference.bounds import Bound
from profiler.reference.unmatched import residual
from profiler.trace.events import Allocation, Free
from profiler.trace.load import read_run
from profiler.workload import Workload
from tests.support.groundtruth import load, needs_snapshots
from tests.support.runs import run_of


def rows(key, source, levels, reserved, **workload):
    shared = {"run_key": key, "workload": key, "source": source, "outcome": "ok", "device": "a-gpu"}
    shared |= Workload("mlp-tiny", 32, **workload).to_dict() | {"allocator_settings": ""}
    return [
        {
            **shared,
            "phase_index": index,
            "step": 1,
            "phase": "forward",
            "micro_batch": index,
            "allocated_bytes": level,
            "peak_allocated_bytes": level * 2,
            "reserved_bytes": held,
            "peak_reserved_bytes": held,
        }
        for index, (level, held) in enumerate(zip(levels, reserved, strict=True))
    ]


@pytest.fixture
def differences():
    measured = rows("a", "measured", [100, 200], [1000, 1000])
    measured += rows("b", "measured", [100, 100], [1000, 1000], optimizer="sgd")
    predicted = rows("a", "simulation", [100, 210], [1000, 1000])
    predicted += rows("b", "simulation", [98, 100], [1000, 1100], optimizer="sgd")
    return accuracy.differences(frame(measured), frame(predicted))


def test_differences_are_predicted_minus_truth_in_percent_of_the_truth(differences):
    levels = differences[differences["quantity"] == "allocated"]
    assert levels["difference_bytes"].tolist() == [0, 10, -2, 0]
    assert levels["difference_percent"].tolist() == pytest.approx([0, 5, -2, 0])


def test_a_run_has_the_most_of_its_phases(differences):
    runs = differences[differences["phase"] == "run"].set_index(["quantity", "run_key"])
    assert runs.loc[("run peak allocated", "a"), ["truth_bytes", "predicted_bytes"]].tolist() == [400, 420]
    assert runs.loc[("run peak reserved", "b"), "difference_percent"] == pytest.approx(10)


@pytest.mark.parametrize("stopped", ["measured", "simulation"])
def test_a_run_that_did_not_end_has_phases_but_no_peak_of_its_own(stopped):
    both = {source: rows("a", source, [100, 200], [1000, 1000]) for source in ("measured", "simulation")}
    both[stopped][-1]["outcome"] = "out_of_memory"
    found = accuracy.differences(frame(both["measured"]), frame(both["simulation"]))
    assert set(found["phase"]) == {"forward"}
    assert len(found) == 4


def test_the_spread_keeps_both_directions_apart(differences):
    table = accuracy.spread(differences[differences["quantity"] == "allocated"], ["optimizer"]).set_index(
        "optimizer"
    )
    adam, sgd = table.loc["adam"], table.loc["sgd"]
    assert (adam["count"], adam["exact"], adam["over"], adam["under"]) == (2, 1, 1, 0)
    assert (adam["min"], adam["median"], adam["max"]) == pytest.approx((0, 2.5, 5))
    assert (adam["worst_over"], adam["worst_under"]) == pytest.approx((5, 0))
    assert (sgd["worst_over"], sgd["worst_under"]) == pytest.approx((0, -2))


def test_bounds_are_what_was_observed_and_only_tighten(differences, tmp_path):
    observed = bounds.observed_bounds(differences)
    assert observed["allocated"] == Bound(5.0, 2.0)
    assert bounds.broken(differences, observed).empty
    old = {"allocated": Bound(7.0, 1.0), "gone": Bound(3.0, 3.0)}
    tightened = bounds.tightened(old, observed)
    assert tightened["allocated"] == Bound(5.0, 1.0)
    assert tightened["gone"] == Bound(3.0, 3.0)
    assert tightened["run peak reserved"] == observed["run peak reserved"]
    broken = bounds.broken(differences, tightened)
    assert broken[["quantity", "difference_percent"]].to_numpy().tolist() == [
        ["allocated", pytest.approx(-2)]
    ]
    bounds.write_bounds(tmp_path / "bounds.json", tightened)
    assert bounds.read_bounds(tmp_path / "bounds.json") == tightened


def test_a_residual_is_named_by_its_line_and_counted_without_one():
    def alloc(size, op):
        return Allocation(0, size, size, op)

    measured = [alloc(512, "a.py:1 f"), alloc(64, ""), Free(0), alloc(2048, "b.py:2 g"), alloc(64, "")]
    found = residual(measured, [alloc(512, "aten::mm"), alloc(4096, "aten::sum")])
    assert found.explanation.aligned == 1
    assert {(group.cause, group.total_bytes) for group in found.named} == {
        ("b.py:2 g", 2048),
        ("aten::sum", 4096),
    }
    assert (found.unnamed, found.unnamed_bytes) == (2, 128)


@needs_snapshots
def test_every_residual_of_a_trace_recorded_on_a_gpu_has_a_name(tmp_path):
    """A training step on an A10 (torch 2.6), held against itself without what its reductions asked for."""
    name = "results__torch_memory_profiles__memory_snapshot_large_cl128_fw_with_grad.cdf88b3f"
    snapshot = load(f"Hyperion-shuo+assignment2-systems/{name}")
    recorded = _ledger_entries(snapshot.devices[0])
    run_of(recorded).save(tmp_path / "trace.parquet")
    measured = read_run(tmp_path / "trace.parquet").entries
    assert measured == recorded
    simulated = [e for e in measured if not (isinstance(e, Allocation) and e.op.startswith("sum"))]
    lost = [e for e in measured if isinstance(e, Allocation) and e.op.startswith("sum")]
    found = residual(measured, simulated)
    assert found.explanation.aligned == len([e for e in simulated if isinstance(e, Allocation)])
    assert sum(group.total_bytes for group in found.named) == sum(e.requested_bytes for e in lost) > 0
    assert (found.unnamed, found.unnamed_bytes) == (0, 0)


def test_the_page_says_that_nothing_was_recorded_or_what_was(differences):
    empty = accuracy_page([])
    assert "No recording of the reference suite on a GPU has been made yet" in empty
    assert all(claim.words in empty and claim.source in empty for claim in CLAIMS)
    about = dict.fromkeys(
        ("device_name", "torch_version", "cuda_version", "driver_version", "recorded_at"), "x"
    )
    full = accuracy_page([Result(about, differences)])
    assert "No recording" not in full
    assert "| allocated | simulation | 4 | 2 | 1.000 | -2.000 | +5.000 | 1 | +5.000 | 1 | -2.000 |" in full


def test_the_committed_page_is_what_the_command_writes_without_recordings():
    from profiler.reference.archive import gpu_recordings

    root = Path(__file__).parents[2]
    if gpu_recordings(root / "results"):
        pytest.skip("there are recordings: the page takes minutes to make")
    assert (root / "docs/accuracy.md").read_text() == accuracy_page([])


def test_an_empty_comparison_has_no_rows():
    assert isinstance(accuracy.differences(frame([]), frame([])), pd.DataFrame)
    assert accuracy.differences(frame([]), frame([])).empty
