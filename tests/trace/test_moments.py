import numpy as np
import pytest

from profiler.trace.events import Allocation, Free, Mark, Place
from profiler.trace.moments import Share, by_category, by_module, containers, layers_together, levels
from profiler.trace.phase import Phase
from tests.support.runs import run_of

pytestmark = pytest.mark.quick

LOADED, FORWARD, BACKWARD = Phase(0, "model_loaded"), Phase(1, "forward", 1), Phase(1, "backward", 1)


def block(address, size_bytes, requested_bytes, module=""):
    return Allocation(address, size_bytes, requested_bytes, "op", "", Place(module, "file.py:1 f"))


ENTRIES = [
    block(1, 1024, 1000, "h.0.fc"),
    block(2, 1024, 1000, "h.1.fc"),
    Mark(LOADED, {1: "parameters", 2: "parameters"}),
    block(3, 512, 400, "h.0"),
    block(4, 2048, 2048, "h.0.fc"),
    Free(4),
    Mark(FORWARD, {1: "parameters", 2: "parameters"}),
    block(5, 512, 512),
    Free(3),
    Free(5),
    Mark(BACKWARD, {}),
]
RESERVED = [2000, 3000, 3000, 4000, 6000, 6000, 6000, 6000, 6000, 6000, 6000]


def test_the_peak_of_each_phase_with_what_was_reserved_then():
    loaded, forward, backward = run_of(ENTRIES, RESERVED).peaks()
    assert (loaded.allocated_bytes, loaded.reserved_bytes, loaded.position) == (2048, 3000, 1)
    assert (forward.allocated_bytes, forward.fragmentation_bytes) == (2048 + 512 + 2048, 6000 - 4608)
    assert forward.allocation is ENTRIES[4]
    assert (backward.phase, backward.allocated_bytes, backward.position) == (BACKWARD, 3072, 7)


def test_a_phase_that_only_frees_peaks_at_its_start():
    entries = [block(1, 512, 512), Mark(LOADED, {}), Free(1), Mark(FORWARD, {})]
    second = run_of(entries, [1024] * 4).peaks()[1]
    assert (second.allocated_bytes, second.position, second.allocation) == (512, 1, None)


def test_categories_at_a_moment_sum_to_the_allocated():
    found = by_category(ENTRIES, 4)
    assert found == {"parameters": 2000, "activations": 400, "temporaries": 2048, "rounding": 24 + 24 + 112}
    assert sum(found.values()) == 4608


def test_modules_at_a_moment_with_equal_layers_together():
    assert by_module(ENTRIES, 4) == [Share("h.*.fc", 1024 + 1024 + 2048, 2), Share("h.*", 512, 1)]
    assert by_module(ENTRIES, 7) == [
        Share("h.*.fc", 2048, 2),
        Share("h.*", 512, 1),
        Share("(backward)", 512, 1),
    ]


@pytest.mark.parametrize(
    ("path", "together"),
    [
        ("h.3.mlp.c_fc", "h.*.mlp.c_fc"),
        ("h.12", "h.*"),
        ("body.2", "body.2"),
        ("layer2.conv1", "layer2.conv1"),
    ],
)
def test_only_numbers_that_are_whole_names_of_containers_are_left_out(path, together):
    assert layers_together(path, {"h.12", "h.3"}) == together


def test_containers_are_all_modules_around_those_that_allocated():
    assert containers([block(1, 1, 1, "a.0.b.c")]) - {""} == {"a.0.b", "a.0", "a"}


def test_levels_keep_every_peak_when_points_are_few():
    entries = [
        *[block(i, 512, 512) for i in range(1000)],
        *[Free(i) for i in range(1000)],
        Mark(LOADED, {}),
    ]
    positions, found = levels(entries, points=10)
    assert len(positions) <= 10
    assert found.keys() == {"temporaries"}
    assert found["temporaries"].max() == 1000 * 512


def test_levels_at_full_resolution_follow_each_event():
    _, found = levels(ENTRIES)
    assert list(found["parameters"]) == [1000] + 10 * [2000]
    assert list(found["activations"]) == [0, 0, 0, 400, 400, 400, 400, 400, 0, 0, 0]
    assert np.array_equal(found["temporaries"], [0, 0, 0, 0, 2048, 0, 0, 512, 512, 0, 0])
