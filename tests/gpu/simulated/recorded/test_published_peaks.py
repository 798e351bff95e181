"""Peaks of single operations that others measured on real GPUs, to the byte."""

from itertools import pairwise

import pytest

from tests.support.groundtruth import PEAKS_OF_OPERATIONS, needs_published_peaks
from tests.support.recorded.published import published, simulated_peak_bytes

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


@needs_published_peaks
@pytest.mark.parametrize(("name", "mode"), COUNTS)
def test_peak(name, mode):
    rows = [row for row in published(PEAKS_OF_OPERATIONS) if (row.name, row.mode) == (name, mode)]
    assert len(rows) == COUNTS[name, mode]
    assert [simulated_peak_bytes(row) for row in rows] == [row.peak_bytes for row in rows]


@needs_published_peaks
def test_embedding_grows_as_published():
    """These rows hold 12 to 14 GB that the operation did not allocate, the same in each row of a setting:
    only the differences between rows can be compared.
    """
    rows = [row for row in published(PEAKS_OF_OPERATIONS) if row.name == "embedding"]
    assert len(rows) == 13
    differences = [
        (simulated_peak_bytes(row) - simulated_peak_bytes(before), row.peak_bytes - before.peak_bytes)
        for before, row in pairwise(rows)
        if row.config == before.config
    ]
    assert len(differences) == 11
    assert all(simulated == measured for simulated, measured in differences)
