"""The numbers of docs/accuracy.md and README.md, counted again from the committed results and tables."""

import re

import pytest

from profiler.recording.simulated import UNKNOWN_WORKSPACES
from profiler.records import table as records
from profiler.records.comparison import compare, set_aside, silent_categories
from profiler.records.select import last_of_each_run, last_of_each_workload
from tests.benchmarks.accuracy_suite import (
    ROOT,
    compared,
    read_probes,
    read_simulated,
    recordings,
    table_row,
)

PAGE = (ROOT / "docs" / "accuracy.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def runs_of_cards():
    """By the recorded card's name its runs that were simulated."""
    return {each.gpu.name: compared(each, read_simulated(each)) for each in recordings()}


def test_runs_and_probes_of_each_card(runs_of_cards):
    probes = read_probes()
    assert len(runs_of_cards) == 4
    for card, runs in runs_of_cards.items():
        assert table_row(card, runs, probes[card]) in PAGE
    everything = [run for runs in runs_of_cards.values() for run in runs]
    plain = [run for run in everything if not run.convolves]
    convolved = [run for run in everything if run.convolves]
    exact, of = sum(run.exact for run in plain), len(plain)
    assert f"| four virtual cards, runs without convolutions | {exact} of {of} |" in PAGE
    assert f"{exact} of {of} runs without convolutions have both peaks the same" in README
    without = sum(all(run.exact_without) for run in convolved)
    assert f"{without} of {len(convolved)} of those with convolutions" in README


def test_the_worst_peaks_of_convolutions_are_those_that_are_said(runs_of_cards):
    convolved = [run for runs in runs_of_cards.values() for run in runs if run.convolves]
    allocated, reserved = (min(run.errors_percent[place] for run in convolved) for place in (0, 1))
    assert f"{reserved:.1f} % reserved, {allocated:.1f} % allocated" in PAGE
    assert f"{-allocated:.1f} % too low allocated and {-reserved:.1f} % reserved" in UNKNOWN_WORKSPACES


def test_levels_of_the_formula():
    found = last_of_each_workload(last_of_each_run(records.read_below(ROOT / "results" / "cpu")[0]))
    measured, simulated = (compare(found, truth=truth) for truth in ("measured", "simulation"))
    exact = int((measured["difference_bytes"] == 0).sum())
    assert f"| {exact} of {len(measured)} | 0 | `profiler show results/cpu` |" in PAGE
    assert f"to the byte: {exact} of {len(measured)}, over" in README
    left, _ = set_aside(simulated, silent_categories(found, "formula"))
    assert f"by nothing else: {int((left == 0).sum())} of {len(simulated)} levels" in README


def cells(page, first):
    """The cells of the table rows of a page whose first cell begins so."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    return [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith(first)
    ]


def test_the_rows_of_others_are_those_of_their_pages():
    (ours,) = cells("leaderboard.md", "| virtual GPU |")
    assert f"| median {ours[2].replace('%', ' %')} | {ours[4].replace('%', ' %')} | [leaderboard.md]" in PAGE
    assert "130 rows that the authors of xMem measured" in PAGE
    fakegpu = [row for row in cells("leaderboard_fakegpu.md", "| ") if row[-2] == "yes"]
    assert len(fakegpu) == 7
    worst = max(abs(float(row[4])) for row in fakegpu)
    assert f"| within {worst:.2f} % |" in PAGE


def test_recorded_peaks_are_those_of_their_table():
    """A difference of 0 in both peaks, in the rows of accuracy_traces.md."""
    rows = [row for row in cells("accuracy_traces.md", "| `") if len(row) > 8 and "torch 2" in row[2]]
    exact = sum(row[5] == "0" and row[8] == "0" for row in rows)
    assert PAGE.count(f"| {exact} of {len(rows)} ") == 2
    assert f"to the byte: allocated and reserved in {exact}, the same {exact} as the virtual GPU" in README


def test_architectures_are_those_of_the_run_that_is_kept():
    lines = (ROOT / "results" / "accuracy" / "architectures.txt").read_text().splitlines()
    *each, last = lines
    counts = [int(number) for number in re.findall(r"\d+", last)]
    total, not_run, *alike = counts
    assert len(each) == total
    assert sum(line.endswith(": alike") for line in each) == alike[0]
    assert (
        f"| {alike[3]} of {total - not_run} without the workspaces of convolutions ({alike[0]} with) |"
        in PAGE
    )
    said = f"the same in {alike[3]} but for the workspaces of convolutions ({alike[0]} with them)"
    assert said in PAGE.replace("\n", " ")
    assert f"peak allocated in {alike[4]} ({alike[1]})" in PAGE.replace("\n", " ")
    assert f"reserved in {alike[5]} ({alike[2]})" in PAGE.replace("\n", " ")
