"""Peaks of single operations that others measured on real GPUs, to the byte."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from published_programs import published, simulated_peak_bytes

GROUNDTRUTH = Path(
    os.environ.get("PROFILER_GROUNDTRUTH", Path(__file__).parents[3] / "shared" / "groundtruth")
)
TABLE = GROUNDTRUTH / "published" / "liger_kernel_memory_rows.csv"
needs_table = pytest.mark.skipif(not TABLE.is_file(), reason=f"no published table at {TABLE}")

COUNTS = {
    ("cross_entropy", "full"): 4,
    ("geglu", "backward"): 4,
    ("geglu", "forward"): 4,
    ("geglu", "full"): 4,
    ("jsd", "full"): 6,
    ("kl_div", "full"): 4,
    ("layer_norm", "full"): 10,
    ("rms_norm", "full"): 6,
    ("swiglu", "full"): 4,
}


@needs_table
@pytest.mark.parametrize(("name", "mode"), COUNTS)
def test_peak(name, mode):
    rows = [row for row in published(TABLE) if (row.name, row.mode) == (name, mode)]
    assert len(rows) == COUNTS[name, mode]
    assert [simulated_peak_bytes(row) for row in rows] == [row.peak_bytes for row in rows]


@needs_table
def test_embedding_grows_as_published():
    """These rows hold 12 to 14 GB that the operation did not allocate, the same in each row of a setting:
    only the differences between rows can be compared.
    """
    rows = [row for row in published(TABLE) if row.name == "embedding"]
    assert len(rows) == 13
    differences = [
        (simulated_peak_bytes(row) - simulated_peak_bytes(before), row.peak_bytes - before.peak_bytes)
        for before, row in pairwise(rows)
        if row.config == before.config
    ]
    assert len(differences) == 11
    assert all(simulated == measured for simulated, measured in differences)
