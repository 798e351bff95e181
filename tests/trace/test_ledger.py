import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.trace.events import Allocation, Free, Mark
from profiler.trace.ledger import CATEGORIES, account
from profiler.trace.phase import BACKWARD, FORWARD, MODEL_LOADED, Phase

pytestmark = pytest.mark.quick

LOADED, FORWARD_1, BACKWARD_1 = Phase(0, MODEL_LOADED), Phase(1, FORWARD, 1), Phase(1, BACKWARD, 1)


def one_step():
    """A weight of 100, an activation of 40, a scratch of 7 in each pass, a gradient of 100."""
    return [
        Allocation(0xA, 100, 100, "empty"),
        Mark(LOADED, {0xA: "parameters"}),
        Allocation(0xB, 40, 40, "relu"),
        Allocation(0xC, 7, 7, "scratch"),
        Free(0xC),
        Mark(FORWARD_1, {0xA: "parameters"}),
        Allocation(0xD, 100, 100, "mm"),
        Allocation(0xC, 7, 7, "scratch"),
        Free(0xB),
        Free(0xC),
        Mark(BACKWARD_1, {0xA: "parameters", 0xD: "gradients"}),
    ]


def test_each_phase_has_its_level_its_peak_and_the_op_that_made_it():
    loaded, forward, backward = account(one_step())
    assert [(a.end_bytes, a.peak_bytes, a.peak_op) for a in (loaded, forward, backward)] == [
        (100, 100, "empty"),
        (140, 147, "scratch"),
        (200, 247, "scratch"),
    ]


def test_categories_follow_from_labels_and_lifetimes():
    _, forward, backward = account(one_step())
    assert forward.end["parameters"] == 100
    assert forward.end["activations"] == 40
    assert forward.peak["temporaries"] == 7
    # The gradient counts as one from its birth, before any mark names it.
    assert backward.peak["gradients"] == 100
    assert backward.peak["activations"] == 40
    assert backward.end["activations"] == 0


def test_an_address_used_again_is_another_allocation():
    accounts = account(
        [
            Allocation(0xA, 8, 8),
            Free(0xA),
            Allocation(0xA, 5, 5),
            Mark(LOADED, {0xA: "parameters"}),
        ]
    )
    assert accounts[0].end["parameters"] == 5
    assert accounts[0].peak["temporaries"] == 8


def test_what_outlives_its_phase_unnamed_is_unattributed_and_stays_visible():
    accounts = account([Allocation(0xA, 8, 8), Mark(LOADED, {}), Mark(FORWARD_1, {})])
    assert [a.end["unattributed"] for a in accounts] == [8, 8]


def test_rounding_is_its_own_category():
    (loaded,) = account([Allocation(0xA, 512, 4), Mark(LOADED, {0xA: "parameters"})])
    assert (loaded.end_bytes, loaded.end["parameters"], loaded.end["rounding"]) == (512, 4, 508)


def test_a_category_known_at_birth_wins():
    (loaded,) = account([Allocation(0xA, 512, 512, "mm", "workspaces"), Mark(LOADED, {0xA: "inputs"})])
    assert loaded.end["workspaces"] == 512


def test_frees_of_blocks_from_before_the_recording_are_ignored():
    (loaded,) = account([Free(0xBEEF), Allocation(0xA, 4, 4), Mark(LOADED, {})])
    assert loaded.end_bytes == 4


@pytest.mark.filterwarnings("ignore")
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 1000), st.booleans()), max_size=60))
def test_categories_always_sum_to_the_total(moves):
    entries, live, phase = [], {}, 0
    for slot, size, mark in moves:
        if slot in live:
            entries.append(Free(slot))
            del live[slot]
        else:
            entries.append(Allocation(slot, size + size % 3, size))
            live[slot] = size + size % 3
        if mark:
            phase += 1
            entries.append(Mark(Phase(phase, FORWARD), {slot: "inputs"}))
            expected = sum(live.values())
            last = account(entries)[-1]
            assert last.end_bytes == expected
            assert sum(last.end.values()) == expected
            assert sum(last.peak.values()) == last.peak_bytes >= expected
            assert set(last.end) == set(CATEGORIES)
