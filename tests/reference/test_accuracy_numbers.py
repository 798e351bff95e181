"""The numbers of docs/accuracy.md and README.md, counted again from the committed results."""

import re

import pytest

from profiler.recording.simulated import UNKNOWN_WORKSPACES
from profiler.records import table as records
from profiler.records.comparison import compare, set_aside, silent_categories
from profiler.records.select import last_of_each_run, last_of_each_workload
from profiler.reference.archive import read_recording
from tests.benchmarks.accuracy_suite import RECORDING, ROOT, compared, read_simulated

PAGE = (ROOT / "docs" / "accuracy.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def runs():
    return compared(read_recording(RECORDING), read_simulated())


def test_runs_of_the_suite_on_the_simulated_and_the_virtual_gpu(runs):
    plain, convolved = ([run for run in runs if run.convolves == sort] for sort in (False, True))
    exact = [sum(run.exact for run in sort) for sort in (plain, convolved)]
    assert f"| virtual A100, runs without convolutions | {exact[0]} of {len(plain)} |" in PAGE
    assert f"| virtual A100, runs with convolutions | {exact[1]} of {len(convolved)} |" in PAGE
    assert f"over the {len(runs)} runs" in PAGE
    assert f"first {len(plain)} runs" in README
    assert f"{exact[1]} of {len(convolved)} have both peaks" in README


def test_the_worst_peaks_of_convolutions_are_those_that_are_said(runs):
    allocated, reserved = (
        min((run.errors_percent[place], run.words) for run in runs if run.convolves) for place in (0, 1)
    )
    assert f"{reserved[0]:.1f} % reserved (ResNet-50, fp32)" in PAGE
    assert reserved[1].startswith("resnet50, batch 32 × 224, adam")
    assert f"{allocated[0]:.1f} % allocated (a tiny ViT, autocast)" in PAGE
    assert allocated[1].startswith("vit-tiny, batch 4 × 32, adam, amp_")
    said = f"{-allocated[0]:.1f} % too low allocated and {-reserved[0]:.1f} % reserved"
    assert said in UNKNOWN_WORKSPACES


def test_levels_of_the_formula():
    found = last_of_each_workload(last_of_each_run(records.read_below(ROOT / "results" / "cpu")[0]))
    measured, simulated = (compare(found, truth=truth) for truth in ("measured", "simulation"))
    exact = int((measured["difference_bytes"] == 0).sum())
    assert f"| {exact} of {len(measured)} | 0 | `profiler show results/cpu` |" in PAGE
    assert f"to the byte: {exact} of {len(measured)}, over" in README
    left, _ = set_aside(simulated, silent_categories(found, "formula"))
    assert f"by nothing else: {int((left == 0).sum())} of {len(simulated)} levels" in README


def test_the_rows_of_others_are_those_of_their_pages():
    ours = re.search(
        r"^\| virtual GPU \| \d+ \| ([\d.]+)% \| [\d.]+% \| ([\d.]+)% \|",
        (ROOT / "docs" / "leaderboard.md").read_text(),
        re.MULTILINE,
    )
    assert f"| median {ours[1]} % | {ours[2]} % | [leaderboard.md]" in PAGE
    assert "130 rows that the authors of xMem measured" in PAGE
